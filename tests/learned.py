"""Versions with real weights, and a model that says which weights it has."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lsml_bento.adapters.bentoml_models import BentoModels
from lsml_bento.contract import Project
from lsml_bento.jobs.annotations import AnnotationStore
from lsml_bento.jobs.events import Event
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.loader import ModelSource
from lsml_bento.model.media import NoMedia
from lsml_bento.model.training_policy import START_TRAINING, TrainingRules
from lsml_bento.prediction.model_factory import ModelKey, to_key
from lsml_bento.prediction.model_pool import ModelPool
from lsml_bento.prediction.predictor import Group, Predictor
from lsml_bento.prediction.version_follower import VersionFollower
from lsml_bento.state.store import State
from lsml_bento.versions.registry import Version, Versions, promote
from lsml_bento.versions.weights import store_name
from tests.doubles import CONFIG, choice, texts

ONE = Project("1", 100)
TWO = Project("2", 100)


class Loaded:
    """What ``load`` made of a version's weights."""

    def __init__(self, name: str) -> None:
        self.name = name


class Named(LabelStudioMLBase):
    """Predicts the name that its weights hold; a name may say what fails."""

    def setup(self) -> None:
        self.set("model_version", "base")

    def load(self, weights: Path | None) -> None:
        self.loaded = Loaded("base" if weights is None else name_in(weights))
        if "bad load" in self.loaded.name:
            raise RuntimeError(f"cannot load {self.loaded.name}")

    def predict(
        self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any
    ) -> list[Any]:
        if "bad predict" in self.loaded.name:
            raise RuntimeError(f"cannot predict with {self.loaded.name}")
        return [{"result": [choice(self.loaded.name)]} for _ in tasks]


def name_in(weights: Path) -> str:
    return (weights / "name").read_text()


@dataclass
class Store:
    """A backend's versions, as its worker makes them."""

    state: State
    directory: Path
    weights: BentoModels = field(init=False)

    def __post_init__(self) -> None:
        self.weights = BentoModels(self.directory)
        self.versions = Versions(self.state)
        self.job_store = JobStore(self.state)

    def version(
        self, name: str, project: Project = ONE, holds: str = "", **more: Any
    ) -> Version:
        """A version with weights that hold a name, not promoted yet."""
        with self.weights.writing() as directory:
            (directory / "name").write_text(holds or name)
            tag = store_name("test", project)
            saved = self.weights.keep(directory, tag, name.lower(), {}, {})
        return Version(
            version=name,
            created_at=time.time(),
            tag=saved.tag,
            manifest=saved.manifest,
            **more,
        )

    def promote(self, name: str, project: Project = ONE, **more: Any) -> Version:
        """Make a version and let it serve."""
        version = self.version(name, project, **more)
        self.serve(version, project)
        return version

    def serve(self, version: Version, project: Project = ONE) -> None:
        """Let a version serve, as its job does in the end."""
        self.state.change(lambda change: promote(change, project, version))

    def promote_without_weights(
        self, name: str, project: Project = ONE, **more: Any
    ) -> None:
        """Let a version serve that a fit made which wrote no weights."""
        version = Version(version=name, created_at=time.time(), **more)
        self.serve(version, project)

    def job(self, project: Project = ONE) -> str:
        """The id of a job that ran."""
        body = {"action": START_TRAINING, "project": str(project)}
        self.job_store.enqueue(Event(START_TRAINING, project, body), EACH)
        lease = self.job_store.lease("test")
        assert lease is not None
        return self.job_store.succeed(lease, None, {}).id

    def error_of(self, job: str) -> str | None:
        return self.job_store.find(job).error


EACH = TrainingRules(each_event=True)


class Process:
    """What one serving process has, without its server.

    Args:
        model: the class, or the source of it.
        store: the backend's versions.
        options: of ``ModelPool``.
    """

    def __init__(
        self,
        model: type[LabelStudioMLBase] | ModelSource,
        store: Store,
        **options: Any,
    ) -> None:
        source = model if isinstance(model, ModelSource) else ModelSource(model)
        self.state = store.state
        any_task = AnnotationStore(self.state).any_task
        self.pool = ModelPool(
            *(source, self.state, NoMedia(), store.weights, any_task), **options
        )
        set_error = JobStore(self.state).set_version_error
        self.follower = VersionFollower(self.pool, self.state, set_error)
        self.predictor = Predictor(self.pool, self.state)

    def key(self, project: Project = ONE, config: str = CONFIG) -> ModelKey:
        return ModelKey(project, config, to_key(None))

    @property
    def active(self) -> dict[Project, str | None]:
        """The versions that really serve, None for the base."""
        return {
            project: None if self.pool.has_stand_in(project) else version
            for project, version in self.pool.versions().items()
        }

    def predict(
        self, project: Project = ONE, config: str = CONFIG, text: str = "a"
    ) -> tuple[str, str]:
        """What the weights say of themselves, and the version that is named."""
        group = Group.for_request(project, config, {}, None)
        (slot,) = self.predictor.predict(group, texts(text)["tasks"])
        assert isinstance(slot, bytes), slot
        found = json.loads(slot)
        (region,) = found["result"]
        return region["value"]["choices"][0], found["model_version"]

    def setup(self, project: Project = ONE, config: str = CONFIG) -> str:
        """The version that ``/setup`` names."""
        return self.predictor.prepare(project, config)
