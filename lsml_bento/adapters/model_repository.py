"""Copies of weights on S3, a network disk, or other storage that fsspec supports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec

from lsml_bento.errors import LsmlError, SettingsError, WeightsError
from lsml_bento.versions.weights import Manifest, check_manifest, manifest_of, parse_tag

_MARK = "lsml.json"
"""Written last: a directory without it was not pushed completely."""

_SHOWN = 400

_BUCKETS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss"}
"""Object storages without directories: creating one would try to create a bucket."""


class ModelRepository:
    """``weights.Repository`` below a URL: ``<url>/<name>/<version>/<file>``.

    Args:
        url: such as ``s3://bucket/path`` or ``file:///path``. Credentials are found as
            the storage's own library finds them, for example AWS's for S3.

    Raises:
        SettingsError: if fsspec does not support the URL, or a package is missing.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        scheme, _, rest = url.partition("://")
        if not scheme or not rest.strip("/"):
            raise SettingsError(
                f"LSML_MODEL_REPO is {self.url!r}: set it to a URL such as "
                "s3://bucket/path or file:///path"
            )
        self._scheme = scheme
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            package = _package(scheme, error)
            raise SettingsError(
                f"LSML_MODEL_REPO is {self.url!r}, and {scheme}:// needs the package "
                f"{package}: pip install {package}"
            ) from error
        except ValueError as error:
            raise SettingsError(
                f"LSML_MODEL_REPO is {self.url!r}, and fsspec does not support "
                f"{scheme}://: use s3://bucket/path or file:///path"
            ) from error

    @property
    def url(self) -> str:
        parts = urlsplit(self._url)
        place = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{place}{parts.path}" if parts.scheme else parts.path

    def push(self, directory: Path, tag: str) -> None:
        with self._translated(tag, "written to"):
            place = self._place(tag)
            self._unmark(place)
            manifest = manifest_of(directory)
            for name in manifest:
                self._make(str(PurePosixPath(place, name).parent))
                self._files.put_file(str(directory / name), f"{place}/{name}")
            mark = json.dumps({"files": manifest})
            self._files.pipe_file(f"{place}/{_MARK}", mark.encode())

    def pull(self, tag: str, directory: Path) -> bool:
        with self._translated(tag, "read from"):
            place = self._place(tag)
            manifest = self._manifest(place)
            if manifest is None:
                return False
            for name in manifest:
                target = directory / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(f"{place}/{name}", str(target))
            check_manifest(directory, manifest)
        return True

    def delete(self, tag: str) -> None:
        with self._translated(tag, "removed from"):
            place = self._place(tag)
            self._unmark(place)
            with suppress(FileNotFoundError):
                self._files.rm(place, recursive=True)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system and the path in it, opened by the process that uses them.

        S3's client does not survive a fork, and caches would hide the changes of other
        machines.
        """
        options = {"skip_instance_cache": True, "use_listings_cache": False}
        files, root = fsspec.core.url_to_fs(self._url, **options)
        return files, root.rstrip("/")

    @property
    def _files(self) -> Any:
        return self._opened[0]

    def _place(self, tag: str) -> str:
        name, version = parse_tag(tag)
        return f"{self._opened[1]}/{name}/{version}"

    def _make(self, directory: str) -> None:
        if self._scheme not in _BUCKETS:
            self._files.makedirs(directory, exist_ok=True)

    def _unmark(self, place: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(f"{place}/{_MARK}")

    def _manifest(self, place: str) -> Manifest | None:
        try:
            found = json.loads(self._files.cat_file(f"{place}/{_MARK}"))["files"]
        except FileNotFoundError:
            return None
        for name in map(PurePosixPath, found):
            if name.is_absolute() or ".." in name.parts:
                raise WeightsError(
                    f"{place}/{_MARK} names files outside of {place}: it was not "
                    "written by lsml-bento"
                )
        return {name: (int(size), str(sha)) for name, (size, sha) in found.items()}

    @contextmanager
    def _translated(self, tag: str, done: str) -> Iterator[None]:
        try:
            yield
        except LsmlError:
            raise
        except Exception as error:  # noqa: BLE001 - file systems raise their own
            # Not chained: the traceback would show the secrets that are removed here.
            raise WeightsError(
                f"the weights {tag} could not be {done} the model repository "
                f"{self.url}: {self._without_secrets(error)}: check LSML_MODEL_REPO "
                "and its credentials"
            ) from None

    def _without_secrets(self, error: Exception) -> str:
        """An error's text without signatures of URLs, user names and passwords."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        text = re.sub(r"(://)[^/\s@]+@", r"\1", text)
        text = re.sub(r"\?[^\s'\"<>]*", "?..", text)
        user = urlsplit(self._url).netloc.rpartition("@")[0]
        for part in (user, *user.split(":")):
            for secret in {part, unquote(part)} - {""}:
                text = text.replace(secret, "***")
        return text[:_SHOWN]


def _package(scheme: str, error: ImportError) -> str:
    """The package to install, from fsspec's ``Install s3fs to access S3``."""
    known = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
    said = re.search(r"[Ii]nstall (?:the )?['\"`]?([\w-]+)", str(error))
    return known.get(scheme) or (said[1] if said else f"fsspec[{scheme}]")
