"""BentoML's supervisor, made to see within a second that a serving process died.

BentoML 1.4 looks every ten seconds, and until then nobody answers for that process. In
a container it replaces none: where the only one died the container ends, for the
orchestrator to start anew, but one of several would be missing for ever.
"""

from __future__ import annotations

from typing import Any

_LOOK_EVERY_S = 1.0


def look_often() -> None:
    """Have the supervisor look every second; for the hook that runs in it."""
    # Only the supervisor has these modules, and it has them by now.
    from bentoml._internal.utils import circus  # noqa: PLC0415

    class Arbiter(circus.Arbiter):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "check_delay": _LOOK_EVERY_S})
            for watcher in self.iter_watchers():
                watcher.respawn = watcher.respawn or watcher.numprocesses > 1

        def manage_watchers(self) -> Any:
            # It would raise while the server starts or ends.
            is_busy = self._restarting or self._exclusive_running_command is not None
            return None if is_busy else super().manage_watchers()

    circus.Arbiter = Arbiter  # type: ignore[misc]
