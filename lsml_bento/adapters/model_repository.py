"""Copies of weights on S3, a network disk, or whatever else fsspec reaches."""

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
"""Written last: what has none was not pushed to its end."""

_SHOWN = 400

_BUCKETS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss"}
"""Have no directories: making them there would try to make a bucket."""


class ModelRepository:
    """``weights.Repository`` below a URL: ``<url>/<name>/<version>/<file>``.

    Args:
        url: ``s3://bucket/path``, ``file:///path``. Credentials come from where the
            file system's own library looks for them, as AWS's do for S3.

    Raises:
        SettingsError: if fsspec does not know the URL, or lacks a package for it.
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
                f"LSML_MODEL_REPO is {self.url!r}, and fsspec knows no {scheme}://: "
                "use s3://bucket/path or file:///path"
            ) from error

    @property
    def url(self) -> str:
        """Where it is, without credentials."""
        parts = urlsplit(self._url)
        place = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{place}{parts.path}" if parts.scheme else parts.path

    def push(self, directory: Path, tag: str) -> None:
        """Store a directory under a tag, over what a push before left there.

        Raises:
            WeightsError: if the repository can not be written.
        """
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
        """Write what is stored under a tag into a directory; False if there is none.

        Raises:
            WeightsError: if it can not be read, or is not whole.
        """
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

    def exists(self, tag: str) -> bool:
        """Whether all of a tag's files were pushed.

        Raises:
            WeightsError: if the repository can not be read.
        """
        with self._translated(tag, "looked for in"):
            return self._manifest(self._place(tag)) is not None

    def delete(self, tag: str) -> None:
        """Remove what is stored under a tag; nothing happens if there is none.

        Raises:
            WeightsError: if the repository can not be written.
        """
        with self._translated(tag, "removed from"):
            place = self._place(tag)
            self._unmark(place)
            with suppress(FileNotFoundError):
                self._files.rm(place, recursive=True)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system and the path in it, made by the process that uses them.

        S3's survives no fork, and must not remember what other machines change.
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
                raise WeightsError(f"{place}/{_MARK} names files outside: not ours")
        return {name: (int(size), str(sha)) for name, (size, sha) in found.items()}

    @contextmanager
    def _translated(self, tag: str, done: str) -> Iterator[None]:
        try:
            yield
        except LsmlError:
            raise
        except Exception as error:  # noqa: BLE001 - each file system has its own
            # Not chained: the traceback would show what is taken out here.
            raise WeightsError(
                f"the weights {tag} could not be {done} the model repository "
                f"{self.url}: {self._without_secrets(error)}: check LSML_MODEL_REPO "
                "and its credentials"
            ) from None

    def _without_secrets(self, error: Exception) -> str:
        """An error's text, without what signed URLs and user names show."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        text = re.sub(r"(://)[^/\s@]+@", r"\1", text)
        text = re.sub(r"\?[^\s'\"<>]*", "?..", text)
        user = urlsplit(self._url).netloc.rpartition("@")[0]
        for part in (user, *user.split(":")):
            for secret in {part, unquote(part)} - {""}:
                text = text.replace(secret, "***")
        return text[:_SHOWN]


def _package(scheme: str, error: ImportError) -> str:
    """The package that fsspec asks for: ``Install s3fs to access S3``."""
    known = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
    said = re.search(r"[Ii]nstall (?:the )?['\"`]?([\w-]+)", str(error))
    return known.get(scheme) or (said[1] if said else f"fsspec[{scheme}]")
