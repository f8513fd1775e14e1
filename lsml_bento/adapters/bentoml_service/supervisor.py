"""Makes BentoML's supervisor replace a dead serving process within a second.

BentoML 1.4 checks every ten seconds. In a container it replaces no process at all: if
the only one died, the container ends and the orchestrator restarts it, but one of
several would be missing forever.
"""

from __future__ import annotations

from typing import Any

_CHECK_EVERY_S = 1.0


def check_often() -> None:
    """Let the supervisor check every second; call it in the supervisor's process."""
    # Late: the supervisor has imported them by now, and no other process needs them.
    from bentoml._internal.utils import circus  # noqa: PLC0415

    class Arbiter(circus.Arbiter):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "check_delay": _CHECK_EVERY_S})
            for watcher in self.iter_watchers():
                watcher.respawn = watcher.respawn or watcher.numprocesses > 1

        def manage_watchers(self) -> Any:
            # It raises while the server starts or stops.
            is_busy = self._restarting or self._exclusive_running_command is not None
            return None if is_busy else super().manage_watchers()

    circus.Arbiter = Arbiter  # type: ignore[misc]
