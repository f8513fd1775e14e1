"""Annotations in a real Label Studio become versions, and those its predictions."""

from collections.abc import Iterator, Sequence
from contextlib import closing

import httpx
import pytest

from ner.data import NEW_LABEL, Example, Span, example_to_annotation
from ner.scores import Score, entity_scores
from ner.train import entities_by_label
from ner.train_base import dictionary_scores, new_label_examples
from tests.e2e import label_studio as label_studio_package
from tests.e2e.bentos import Built
from tests.e2e.client import Connection, Json, LabelStudioApi, Project
from tests.e2e.processes import ROOT, Server, eventually
from tests.e2e.serving import BACKENDS, start_command

NER = ROOT / "examples" / "pytorch_ner"
NER_CONFIG = (NER / "label_config.xml").read_text(encoding="utf-8")
BASE = "pytorch-ner-base"
ANNOTATIONS = 50

MOODS = """\
<View>
  <Text name="text" value="$text"/>
  <Choices name="mood" toName="text">
    <Choice value="glad"/>
    <Choice value="sad"/>
  </Choices>
</View>
"""

USER, PASSWORD = "bob", "s3cret"

JOB = {
    *("id", "project", "event", "status", "attempts", "progress", "metrics"),
    *("version", "error", "created_at", "started_at", "finished_at"),
}
"""What every client may count on in a job."""


class Api:
    """A backend's own routes, for one project."""

    def __init__(self, server: Server, project: Project) -> None:
        auth = (USER, PASSWORD)
        self._http = httpx.Client(base_url=server.url, auth=auth, timeout=20)
        self._project = project.id

    def close(self) -> None:
        self._http.close()

    def jobs(self) -> list[Json]:
        """The project's jobs, the newest first."""
        answer = self._http.get("/api/jobs", params={"project": str(self._project)})
        assert set(answer.json()) == {"jobs"}, answer.text
        found: list[Json] = answer.json()["jobs"]
        return found

    def versions(self) -> list[Json]:
        """The project's versions, the newest first."""
        answer = self._http.get(f"/api/projects/{self._project}/versions")
        assert answer.status_code == 200, answer.text
        found: list[Json] = answer.json()["versions"]
        return found

    def activate(self, version: str) -> None:
        """Let a version serve."""
        path = f"/api/projects/{self._project}/versions/{version}/activate"
        answer = self._http.post(path)
        assert answer.status_code == 200, answer.text

    def learned(self, jobs: int, timeout_s: float = 60) -> Json:
        """The details of the newest job, once so many have succeeded and none waits."""

        def is_done() -> bool:
            found = self.jobs()
            ended = [job["status"] in {"succeeded", "failed"} for job in found]
            return all(ended) and len(ended) >= jobs

        eventually(is_done, lambda: str(self.jobs()), timeout_s)
        found = self.jobs()
        assert [job["status"] for job in found] == ["succeeded"] * jobs, found
        details: Json = self._http.get(f"/api/jobs/{found[0]['id']}").json()
        return details


# The example learns a label that it has never seen


@pytest.fixture(scope="module", params=["source", "tag"])
def ner(
    request: pytest.FixtureRequest,
    label_studio: LabelStudioApi,
    ner_bento: Built,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """The example, with a key to Label Studio: its directory, and its bento's tag."""
    environ = {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio_package.TOKEN,
    }
    home = tmp_path_factory.mktemp("ner")
    if request.param == "tag":
        made = ner_bento.served(home, environ)
    else:
        made = start_command(NER, home, environ=environ)
    with made as server:
        yield server


def scores_of(
    predictions: Sequence[Json], held_out: dict[int, Example]
) -> dict[str, Score]:
    """How right the predictions are that Label Studio has stored."""
    found = {prediction["task"]: prediction["result"] for prediction in predictions}
    assert set(found) >= set(held_out)
    values = [[region["value"] for region in found[task]] for task in held_out]
    spans = [
        [Span(v["start"], v["end"], v["labels"][0]) for v in one] for one in values
    ]
    return entity_scores([e.spans for e in held_out.values()], spans)


def test_50_annotations_teach_a_new_label_and_a_rollback_removes_it(
    label_studio: LabelStudioApi, ner: Server
) -> None:
    known, others = new_label_examples(ANNOTATIONS)
    seen = set(entities_by_label(known)[NEW_LABEL])
    assert seen.isdisjoint(entities_by_label(others)[NEW_LABEL])
    project = label_studio.create_project("a new label", NER_CONFIG)
    to_annotate = project.add_tasks([example.text for example in known])
    held_out = dict(
        zip(project.add_tasks([e.text for e in others]), others, strict=True)
    )

    annotated = zip(to_annotate, known, strict=True)
    annotate(project, *next(annotated))  # no webhook brings this one
    connection = project.connect_patiently(ner.url)
    assert connection.created["model_version"] == BASE
    for task, example in annotated:
        annotate(project, task, example)
    with closing(Api(ner, project)) as api:
        job = api.learned(1, timeout_s=120)
        assert job["source"] == "Label Studio"
        assert job["event"] == "ANNOTATION_CREATED"
        assert job["new_annotations"] == ANNOTATIONS - 1
        assert job["metrics"]["trained_on"] + job["metrics"]["held_out"] == ANNOTATIONS
        version = job["version"]
        assert served_version(api) == version

        wait_for(connection, version)
        project.retrieve_predictions(list(held_out))
        predictions = project.predictions()
        assert {p["model_version"] for p in predictions} == {version}
        reached = scores_of(predictions, held_out)[NEW_LABEL]
        looked_up = dictionary_scores(known, others).get(NEW_LABEL)
        assert reached.f1 > 0.5
        assert reached.f1 > (looked_up.f1 if looked_up else 0)

        api.activate(BASE)
        wait_for(connection, BASE)
        project.retrieve_predictions(to_annotate[:5])
        newer = [p for p in project.predictions() if p not in predictions]
        assert [p["model_version"] for p in newer] == [BASE] * 5
        assert NEW_LABEL not in str([p["result"] for p in newer])
        assert [found["id"] for found in api.jobs()] == [job["id"]]
    assert label_studio_package.TOKEN not in ner.log()


def annotate(project: Project, task: int, example: Example) -> None:
    """Submit what the example's sentences say of a text."""
    project.annotate(task, example_to_annotation(example, "label", "text"))


def wait_for(connection: Connection, version: str) -> None:
    """Wait until Label Studio is told of a version, a second after its promotion."""
    eventually(
        lambda: connection.check()["model_version"] == version,
        lambda: str(connection.check()),
        timeout_s=5,
    )


def served_version(api: Api) -> str:
    [active] = [version["version"] for version in api.versions() if version["active"]]
    return str(active)


# Whatever happens to an annotation reaches the next fit


def mood(choice: str) -> list[Json]:
    """An annotation as Label Studio's front end sends it."""
    return [
        {
            "id": "m",
            "from_name": "mood",
            "to_name": "text",
            "type": "choices",
            "value": {"choices": [choice]},
        }
    ]


def predicted(connection: Connection, version: str) -> dict[int, str | None]:
    """What Label Studio retrieves from a version, by task."""
    project = connection.project
    wait_for(connection, version)
    project.retrieve_predictions()
    return {
        p["task"]: p["result"][0]["value"]["choices"][0] if p["result"] else None
        for p in project.predictions()
        if p["model_version"] == version
    }


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A protected backend that learns from the annotation store."""
    options = ["--basic-auth-user", USER, "--basic-auth-pass", PASSWORD]
    home = tmp_path_factory.mktemp("parrot")
    with start_command(BACKENDS / "parrot", home, *options) as server:
        yield server


def test_a_protected_backend_learns_from_created_updated_and_deleted_annotations(
    label_studio: LabelStudioApi, parrot: Server
) -> None:
    project = label_studio.create_project("moods", MOODS)
    connection = project.connect(f"http://{USER}:{PASSWORD}@127.0.0.1:{parrot.port}")
    first, second = project.add_tasks(["the sun", "the rain"])
    with closing(Api(parrot, project)) as api:
        made = [project.annotate(task, mood("glad")) for task in (first, second)]
        job = api.learned(1)
        assert set(api.jobs()[0]) == JOB
        assert (job["source"], job["metrics"]) == ("annotation store", {"texts": 2})
        learned = predicted(connection, job["version"])
        assert learned == {first: "glad", second: "glad"}

        path = f"/api/annotations/{made[0]['id']}/"
        label_studio.call("PATCH", path, json={"result": mood("sad")})
        job = api.learned(2)
        assert job["event"] == "ANNOTATION_UPDATED"
        assert predicted(connection, job["version"]) == {first: "sad", second: "glad"}

        label_studio.call("DELETE", f"/api/annotations/{made[1]['id']}/")
        connection.train()
        job = api.learned(3)
        assert job["event"] == "START_TRAINING"
        assert job["metrics"] == {"texts": 1}
        assert predicted(connection, job["version"]) == {first: "sad", second: None}
        assert connection.record()["state"] == "CO"
