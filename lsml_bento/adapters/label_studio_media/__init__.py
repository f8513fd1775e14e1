"""Media files of tasks, downloaded with label-studio-sdk's ``get_local_path``.

The SDK knows Label Studio's addresses. This package decides what may be read, and
decides again on every redirect and for the address that a host name resolves to:

- Link-local, metadata and reserved addresses are never read.
- Loopback addresses are read only at the host and port of ``LABEL_STUDIO_URL``.
- Private networks are read, since many people keep their images there.
- The API key is sent only to the media routes below ``LABEL_STUDIO_URL``, so that task
  data cannot make a model read the rest of Label Studio's API.
- Local paths are read only below ``local_files_root``, with symbolic links resolved.

``guard`` checks addresses, ``session`` downloads one file, ``cache`` keeps files.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from weakref import WeakValueDictionary

from pydantic import SecretStr

from lsml_bento.adapters.label_studio_media.cache import MediaCache
from lsml_bento.adapters.label_studio_media.guard import shown
from lsml_bento.adapters.label_studio_media.session import LabelStudio, Session, fetch
from lsml_bento.errors import MediaError

Access = tuple[str | None, str | SecretStr | None]
"""Label Studio's URL and an API key of it."""

_LOCAL_STORAGE = re.compile(r"/data/.*\?d=")


class LabelStudioMedia:
    """``Media`` on label-studio-sdk: downloads once, keeps files in a bounded cache.

    Args:
        label_studio_url: Label Studio's base URL, with its sub-path if it has one.
        api_key: a personal access token or a legacy token.
        local_files_root: the only directory from which paths in task data are read.
        cache_dir: created by the first download.
        max_file_bytes: larger files are refused.
        late_access: returns URL and key at the first use, for those not given.
        max_cache_bytes: above this size the least recently used files are deleted,
            except those used in the last ten minutes.
    """

    def __init__(
        self,
        label_studio_url: str | None,
        api_key: str | SecretStr | None,
        local_files_root: Path | None,
        cache_dir: Path,
        *,
        late_access: Callable[[], Access] = lambda: (None, None),
        max_file_bytes: int = 2 << 30,
        max_cache_bytes: int = 10 << 30,
    ) -> None:
        self._access = label_studio_url, api_key
        self._late_access = late_access
        self._root = local_files_root and local_files_root.resolve()
        if self._root == Path(self._root.anchor if self._root else ""):
            self._root = None  # It would make every file on this machine readable.
        self._cache_dir, self._max_cache_bytes = cache_dir, max_cache_bytes
        self._max_file_bytes = max_file_bytes
        self._locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._lock = threading.Lock()

    @cached_property
    def _studio(self) -> LabelStudio:
        (url, key), late = self._access, self._late_access()
        url, key = url or late[0], key or late[1]
        if isinstance(key, SecretStr):
            key = key.get_secret_value()
        return LabelStudio(url or "", key or "")

    @cached_property
    def _cache(self) -> MediaCache:
        return MediaCache(self._cache_dir, self._max_cache_bytes)

    def access_token(self) -> str | None:
        """Return the API key as it was set, without exchanging it."""
        return self._studio.key or None

    def local_path(self, url: str, *, task_id: int | str | None, **options: Any) -> str:
        """Return the path of a local copy; see ``Media.local_path``.

        Args:
            url: as stored in task data.
            task_id: needed for ``s3``, ``gs`` and ``azure-blob`` addresses.
            options: ``ls_host`` and ``ls_access_token`` for another Label Studio (the
                configured key is not sent there), ``project_dir``, ``image_dir``,
                ``cache_dir`` and ``download_resources`` as in the SDK.

        Raises:
            MediaError: if the file cannot be read or must not be.
        """
        studio = self._other(options)
        try:
            return str(self._find(studio or self._studio, url, task_id, options))
        except (OSError, ValueError) as error:  # e.g. a full disk, or NUL in a path
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise MediaError(
                f"{shown(url)} cannot be read: {reason}; check the address, and "
                "that LSML_HOME is writable and has space"
            ) from error
        finally:
            if studio is not None:
                studio.adapter.close()

    def close(self) -> None:
        """Close idle connections."""
        if "_studio" in vars(self):
            self._studio.adapter.close()

    def _other(self, options: dict[str, Any]) -> LabelStudio | None:
        """Return the Label Studio that the model's own code names, if any."""
        url = options.get("ls_host") or self._studio.url
        key = options.get("ls_access_token") or ""
        same = url.rstrip("/") == self._studio.url
        if same and key in ("", self._studio.key):
            return None
        return LabelStudio(url, key)

    def _find(
        self,
        studio: LabelStudio,
        url: str,
        task_id: int | str | None,
        options: dict[str, Any],
    ) -> Path:
        if (here := self._local_storage(url)) is not None:
            return here  # Works without LABEL_STUDIO_URL too.
        try:
            place = studio.place(url)
            if place is None:
                return self._below_root(url)
            return self._local_storage(place) or self._fetch(
                studio, place, task_id, options
            )
        except MediaError as error:
            if self._root is None or (name := _storage_path(url)) is None:
                raise
            raise MediaError(
                f"{name[:200]!r} is not below LSML_LOCAL_FILES_ROOT ({self._root}), "
                f"and it cannot be read from Label Studio either: {error}"
            ) from error

    def _below_root(self, url: str) -> Path:
        if self._root is None:
            raise MediaError(
                f"{url[:200]!r} is a path on this machine: set LSML_LOCAL_FILES_ROOT "
                "to the directory from which tasks may read"
            )
        path = (self._root / url).resolve()
        if not path.is_relative_to(self._root) or not path.is_file():
            raise MediaError(
                f"{url[:200]!r} is not a file below LSML_LOCAL_FILES_ROOT "
                f"({self._root})"
            )
        return path

    def _local_storage(self, url: str) -> Path | None:
        """Return a file of a Local Files storage that this machine has too."""
        name = _storage_path(url)
        if self._root is None or name is None:
            return None
        path = self._root / name
        return self._below_root(str(path)) if os.path.lexists(path) else None

    def _fetch(
        self,
        studio: LabelStudio,
        url: str,
        task_id: int | str | None,
        options: dict[str, Any],
    ) -> Path:
        cache = self._cache
        if options.get("cache_dir"):
            cache = MediaCache(Path(options["cache_dir"]), 1 << 62)
        digest = hashlib.sha256(f"{studio.url} {url}".encode()).hexdigest()[:32]
        name = f"{digest}__{_file_name(url)}"
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if found := cache.find(name):
                return found
            with cache.part() as part:
                session = Session(studio, part / "body", self._max_file_bytes)
                uploaded = fetch(session, url, task_id, options, part)
                return uploaded or cache.keep(part / "body", name)


def _storage_path(url: str) -> str | None:
    """Return the path that an address of a Local Files storage names, if it is one."""
    found = _LOCAL_STORAGE.match(url) and parse_qs(urlsplit(url).query).get("d")
    return found[-1].lstrip("/") if found else None


def _file_name(url: str) -> str:
    """Return the last part of the path, whose suffix tells the file type."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    source = (query.get("d") or query.get("filepath") or [unquote(parts.path)])[-1]
    return re.sub(r"[^\w.-]", "_", source.rsplit("/", 1)[-1])[-80:]
