"""``lsml-bento versions``: which there are, which one serves, and which one goes."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from lsml_bento.projects.overview import list_versions
from lsml_bento.state.store import Change
from lsml_bento.versions.registry import Version, Versions, promote
from lsml_bento.versions.weights import store_name
from tests.cli.commands import LABEL_CONFIG
from tests.cli.place import LEARNER, ONE, TWO, Place, QuickPlace, seconds


@pytest.fixture
def place(tmp_path: Path) -> QuickPlace:
    made = QuickPlace(tmp_path / "backend")
    made.connect()
    return made


def active(place: Place) -> str | None:
    with place.state() as state:
        return Versions(state).pointer(ONE).version


def test_before_any_training_the_base_model_is_listed(place: Place) -> None:
    [_, base] = place.said("versions", "list").splitlines()
    assert base.split() == ["learner-0", "yes", "base", "model"]
    place.connect(TWO)
    assert place.refused("versions", "list") == (
        f"2 projects are known: name one of {ONE}, {TWO}"
    )


def test_versions_are_listed_newest_first(place: Place) -> None:
    place.version("v1")
    place.version("v2", job="01a2b3c4d5e6f7")

    [head, *lines] = place.said("versions", "list", "1").splitlines()

    assert head.split() == ["version", "active", "created", "job", "metrics", "weights"]
    assert [line.split()[0] for line in lines] == ["v2", "v1", "learner-0"]
    assert lines[0].split()[1] == "yes"
    stored = f"{store_name('learner', ONE)}:v2"
    assert lines[0].split()[-4:] == ["d5e6f7", "f1", "0.5", stored]
    with place.state() as state:
        assert place.json("versions", "list") == {"versions": list_versions(state, ONE)}


def test_a_thousand_versions_are_listed_within_a_second(place: Place) -> None:
    def work(change: Change) -> None:
        for number in range(1_000):
            made = Version(version=f"v{number}", created_at=number)
            promote(change, ONE, made)

    started = seconds(place, "versions", "list")
    with place.state() as state:
        state.change(work)

    assert len(place.said("versions", "list").splitlines()) == 1_002
    assert seconds(place, "versions", "list") - started < 1


def test_a_version_is_shown_in_full(place: Place) -> None:
    place.version("v1", label_config="<View/>")
    place.version("v2", label_config=LABEL_CONFIG, parent="v1", values={"seen": [1, 2]})

    said = place.process("versions", "show", "1", "v2").stdout
    told = place.json("versions", "show", "1", "v1")

    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert "active yes" in lines
    assert "trained from v1" in lines
    assert "value seen [1, 2]" in lines
    assert "label config unchanged" in lines
    assert any(line.startswith("weights 2 bytes, sha256") for line in lines)
    assert told["label_config_is_current"] is False
    assert told["active"] is False
    assert told["files"]["weights"]["bytes"] == 2
    base = place.said("versions", "show", "1", "learner-0")
    assert "the base model, not trained here" in base
    assert place.refused("versions", "show", "1", "v3") == (
        f"project {ONE} has no version 'v3': see `lsml-bento versions list`"
    )


def test_a_version_is_activated_pinned_and_rolled_back(place: Place) -> None:
    place.version("v1")
    place.version("v2")

    said = place.said("versions", "activate", "1", "v1", "--pin")
    assert said == f"Activated v1 for project {ONE}, pinned.\n"
    assert active(place) == "v1"
    assert "yes, pinned" in place.said("versions", "list")
    [v2, v1, _] = place.json("versions", "rollback", "1")["versions"]
    assert (v2["active"], v1["active"]) == (True, False)
    assert place.said("versions", "activate", "1", "learner-0") == (
        f"Activated learner-0 for project {ONE}.\n"
    )
    assert active(place) is None


def test_replaced_files_are_loaded_again_as_a_new_version(place: Place) -> None:
    assert place.said("versions", "reload") == (
        f"Project {ONE} loads its files again as learner-0+1.\n"
    )
    assert active(place) == "learner-0+1"
    [new, base] = place.json("versions", "reload", "1")["versions"][::2]
    assert (new["version"], new["active"]) == ("learner-0+2", True)
    assert base["version"] == "learner-0"


def test_what_does_not_exist_is_an_error(place: Place) -> None:
    assert place.refused("versions", "activate", "1", "v9") == (
        f"project {ONE} has no version 'v9': see `lsml-bento versions list`"
    )
    assert place.refused("versions", "list", "7").startswith(
        "project '7' is not known: connect the backend in Label Studio first"
    )
    assert place.refused("versions", "rollback") == (
        f"project {ONE} had no other version before the base: see `lsml-bento versions "
        "list`"
    )


def test_a_version_is_deleted_with_its_weights_after_confirmation(place: Place) -> None:
    for name in ("v1", "v2"):
        place.version(name)
    stored = store_name("learner", ONE)

    assert place.refused("versions", "delete", "1", "v2", "--yes") == (
        f"version 'v2' of project {ONE} is serving: activate another version first"
    )
    asked = place.process("versions", "delete", "1", "v1")
    assert asked.returncode == 1
    assert asked.stderr.splitlines() == [
        f"Delete v1 of project {ONE} and its weights? [y/N]: ",
        "lsml-bento: nothing was deleted: answer y, or pass --yes",
    ]
    assert place.weights.tags(stored) == [f"{stored}:v1", f"{stored}:v2"]
    assert place.said("versions", "delete", "1", "v1", "-y") == (
        f"Deleted v1 of project {ONE}.\n"
    )
    assert place.weights.tags(stored) == [f"{stored}:v2"]
    left = place.json("versions", "list")["versions"]
    assert [one["version"] for one in left] == ["v2", "learner-0"]


def test_weights_that_another_version_uses_are_kept(place: Place) -> None:
    first = place.version("v1")
    again = first.model_copy(update={"version": "v1+1", "created_at": time.time()})
    place.version("v2")
    with place.state() as state:
        state.change(partial(promote, project=ONE, version=again))

    place.said("versions", "delete", "1", "v1", "--yes")

    assert first.tag in place.weights.tags(store_name("learner", ONE))


def test_versions_are_the_same_on_redis(tmp_path: Path, redis_server: str) -> None:
    name = f"Learner{uuid4().hex[:8]}"
    model = LEARNER.replace("class Learner", f"class {name}")
    place = Place(tmp_path / "backend", redis_server, model=model)
    place.name = name.lower()
    place.connect()
    place.version("v1")

    assert (
        place.said("versions", "rollback")
        == f"Rolled project {ONE} back to the base model.\n"
    )
    assert (
        place.said("versions", "activate", "1", "v1")
        == f"Activated v1 for project {ONE}.\n"
    )
    assert [v["active"] for v in place.json("versions", "list")["versions"]] == [
        True,
        False,
    ]
