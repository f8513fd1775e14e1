"""Whether a ``fit`` changed a file of its class."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_SKIPPED_DIRECTORIES = frozenset({"__pycache__", "node_modules", "site-packages"})
_SKIPPED_FILES = (".log", ".pyc")
_OWN = re.compile(r"(state|huey)\.db|.*\.lock$|(inbox|media|preannotate)$")
"""What lsml-bento itself writes into a home, while ``fit`` runs."""

_CLOCK_STEP_NS = 20_000_000
"""Systems stamp files with a clock that may be this much behind."""


class FileChanges:
    """Notices files below some directories that change after it was created.

    Logs, bytecode and hidden directories do not count.

    Args:
        roots: the directories; one may not exist yet.
        home: of lsml-bento's state; its files do not count.
        stores: directories that do not count, such as the model store.
    """

    def __init__(
        self, roots: Iterable[Path], home: Path | None, stores: Iterable[Path] = ()
    ) -> None:
        self._home = None if home is None else home.resolve()
        self._stores = {store.resolve() for store in stores}
        self._since = {root: _clock_of(root) for root in {r.resolve() for r in roots}}

    def found(self) -> bool:
        """Whether a file was created, written or moved to one of the directories."""
        return any(
            _changed_at(entry) >= since
            for root, since in self._since.items()
            for entry in self._files(root)
        )

    def _files(self, root: Path) -> Iterator[os.DirEntry[str]]:
        seen: set[tuple[int, int]] = set()
        waiting = [root]
        while waiting:
            directory = waiting.pop()
            with suppress(OSError), os.scandir(directory) as entries:
                about = directory.stat()
                if (about.st_dev, about.st_ino) in seen:  # a link led here
                    continue
                seen.add((about.st_dev, about.st_ino))
                for entry in entries:
                    if directory == self._home and _OWN.match(entry.name):
                        continue
                    if not entry.is_dir():
                        if not entry.name.endswith(_SKIPPED_FILES):
                            yield entry
                    elif not self._is_skipped(entry):
                        waiting.append(Path(entry.path))

    def _is_skipped(self, entry: os.DirEntry[str]) -> bool:
        is_library = entry.name in _SKIPPED_DIRECTORIES
        path = Path(entry.path)
        return entry.name.startswith(".") or is_library or path in self._stores


def _changed_at(entry: os.DirEntry[str]) -> int:
    with suppress(OSError):
        found = entry.stat()
        # Unlike st_mtime, it cannot be set by a copy. On Windows it is the creation.
        return found.st_ctime_ns if os.name == "posix" else found.st_mtime_ns
    return 0


def _clock_of(directory: Path) -> int:
    """The time by the clock that stamps the directory's files, which may be a NAS's."""
    if not directory.exists():
        return 0  # whatever is there later is new
    with suppress(OSError), tempfile.TemporaryFile(dir=directory) as file:
        return os.fstat(file.fileno()).st_mtime_ns
    return time.time_ns() - _CLOCK_STEP_NS
