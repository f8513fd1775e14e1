"""Writing into a store: one at a time, and the old stays until the new is in."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from lsml_bento.adapters.bentoml_models import StagingArea
from lsml_bento.errors import WeightsError


def room_of(store: Path) -> StagingArea:
    return StagingArea(store, store / ".inside", lambda path: None)


def test_only_one_is_in_a_block_of_a_name_at_a_time(tmp_path: Path) -> None:
    room = room_of(tmp_path / "models")
    inside: list[int] = []
    most: list[int] = []

    def enter() -> None:
        for _ in range(50):
            with room.alone("pull-a"):  # whoever leaves removes what the others wait on
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0002)
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(most) == 8 * 50
    assert max(most) == 1


def test_a_failed_put_leaves_the_target_unchanged(tmp_path: Path) -> None:
    room = room_of(tmp_path / "models")
    target = tmp_path / "models" / "name" / "version"
    target.mkdir(parents=True)
    (target / "weights").write_text("old")

    with pytest.raises(WeightsError, match="could not be written"):
        room.put(tmp_path / "is not there", target, lambda: None)

    assert (target / "weights").read_text() == "old"
