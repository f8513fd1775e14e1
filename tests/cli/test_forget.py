"""``lsml-bento forget``: what it prints, and what it leaves."""

from __future__ import annotations

import subprocess
from pathlib import Path
from uuid import uuid4

from lsml_bento.versions.weights import store_name
from tests.cli.commands import TOOL
from tests.cli.place import LEARNER, ONE, TWO, QuickPlace

HELD = "0 annotations of 0 tasks, 1 jobs, 1 versions (0.0 MiB), 2 values"


def test_a_project_is_deleted_after_confirmation(tmp_path: Path) -> None:
    place = QuickPlace(tmp_path / "backend")
    place.connect(ONE, TWO)
    for project in (ONE, TWO):
        place.failed(project)
        place.version("v1", project)

    refused = place.process("forget", "1")
    assert refused.stderr.splitlines() == [
        f"Delete project {ONE} with {HELD}? [y/N]: ",
        "lsml-bento: nothing was deleted: answer y, or pass --yes",
    ]
    done = subprocess.run(
        [str(TOOL), "forget", "1"],
        cwd=place.directory,
        env=place.environ,
        input="y\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout == f"Project {ONE} deleted: {HELD}.\n"
    with place.state() as state:
        assert state.projects() == [TWO]
        assert not [key for key, _ in state.scan("") if str(ONE.created_at) in key]
    assert place.weights.tags(store_name("learner", ONE)) == []
    assert len(place.weights.tags(store_name("learner", TWO))) == 1
    assert [job["project"] for job in place.json("jobs", "list")["jobs"]] == [str(TWO)]
    assert place.refused("forget", "1", "--yes").startswith("project '1' is not known")


def test_a_project_is_deleted_on_redis(tmp_path: Path, redis_server: str) -> None:
    name = f"Learner{uuid4().hex[:8]}"
    model = LEARNER.replace("class Learner", f"class {name}")
    place = QuickPlace(tmp_path / "backend", redis_server, model=model)
    place.name = name.lower()
    place.connect()
    place.failed()
    place.version("v1")

    assert place.json("forget", "1", "--yes") == {
        "project": str(ONE),
        "annotations": 0,
        "tasks": 0,
        "jobs": 1,
        "versions": 1,
        "values": 2,
        "weights": 2,
    }
    with place.state() as state:
        left = [key for key, _ in state.scan("") if not key.startswith("total\x1f")]
        assert left == []
