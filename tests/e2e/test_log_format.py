"""``LSML_LOG_FORMAT=json``: what a server and all of its processes write."""

import json
from contextlib import closing
from pathlib import Path

from tests.doubles import PROJECT
from tests.e2e.learning import Annotator
from tests.e2e.serving import BACKENDS, serve_command


def test_server_worker_and_fit_write_one_json_object_per_line(tmp_path: Path) -> None:
    environ = {"LSML_LOG_FORMAT": "json", "LSML_ACCESS_LOG": "1"}
    with serve_command(BACKENDS / "learner", tmp_path, environ=environ) as server:
        with closing(Annotator(server)) as annotator:
            annotator.setup()
            job = annotator.ended(annotator.annotate(1), timeout_s=90)
        server.stop()

    lines = [json.loads(line) for line in server.log().splitlines()]
    loggers = {line["logger"].partition(".")[0] for line in lines}
    assert {"bentoml", "lsml_bento"} <= loggers
    # The worker passes on what its child writes, and keeps it with the job as text.
    texts = {
        "{time} {level} {logger}: {event}".format_map(line): line for line in lines
    }
    assert job["status"] == "succeeded"
    passed_on = [texts[line] for line in job["log"]]
    assert {(line["job"], line["project"]) for line in passed_on} == {
        (job["id"], PROJECT)
    }
