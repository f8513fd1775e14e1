"""Pipelines as the serving process makes and calls them, with files of a directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import pytest

from lsml_bento.adapters.transformers_pipelines import PipelineModel
from lsml_bento.contract import Project
from lsml_bento.diagnostics.results import check_results
from lsml_bento.errors import MediaError
from lsml_bento.model.base_class import ModelRuntime, use_runtime
from lsml_bento.model.invoke import call, render

ONE = Project("1", 1795426489)


class Folder:
    """Media: ``/data/NAME`` is a file of a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def local_path(self, url: str, *, task_id: int | str | None, **options: Any) -> str:
        path = self._directory / url.removeprefix("/data/")
        if not path.is_file():
            raise MediaError(f"{url} of task {task_id} is not there")
        return str(path)

    def access_token(self) -> str | None:
        return None


class Make(Protocol):
    """Makes a loaded model: pipeline, model, label config, extra params."""

    def __call__(
        self, pipeline: str, model: Path, config: str, **extra: Any
    ) -> PipelineModel: ...


def maker(monkeypatch: pytest.MonkeyPatch, files: Path) -> Make:
    def make(pipeline: str, model: Path, config: str, **extra: Any) -> PipelineModel:
        monkeypatch.setenv("LSML_PIPELINE", pipeline)
        monkeypatch.setenv("LSML_PIPELINE_MODEL", str(model))
        runtime = ModelRuntime(ONE, media=Folder(files))
        runtime.state.write(ONE, {"extra_params": extra})
        with use_runtime(runtime):
            made = PipelineModel("1", config)
            made.load(None)
        return made

    return make


def predicted(model: PipelineModel, tasks: list[dict[str, Any]]) -> list[Any]:
    """What a client would get for each task, or the error of one."""
    slots = render(call(model, tasks, {}, None), len(tasks), "v")
    return [s if isinstance(s, Exception) else json.loads(s) for s in slots]


def problems(config: str, slots: list[Any], tasks: list[dict[str, Any]]) -> list[str]:
    """What Label Studio would hide, refuse or break on."""
    found = check_results(config, slots, tasks)
    return [one.message for one in found if one.severity != "note"]
