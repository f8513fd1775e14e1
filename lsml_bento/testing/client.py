"""Calls a backend's routes in this process, without a server."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx

from lsml_bento.backend.backend import Backend
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.loader import ModelSource
from lsml_bento.processes.server import asgi_app, make_backend
from lsml_bento.settings import Settings

_Answer = TypeVar("_Answer")


class Client:
    """An HTTP client for an ASGI app; close it, or use ``with``.

    Args:
        app: the ASGI app.
        backend: closed with the client.
        home: the directory of its state, deleted with the client.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        backend: Backend | None = None,
        home: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self._backend = backend
        self._home = home
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://backend")

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request; ``options`` are those of ``httpx``, such as ``json``."""
        return self._run(self._http.request(method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def close(self) -> None:
        """Finish pending requests, then release threads and files."""
        if self._loop.is_closed():
            return
        self._run(self._http.aclose())
        if self._backend is not None:
            self._run(self._backend.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._home is not None:
            self._home.cleanup()

    def delete_files(self) -> None:
        """Delete the files only: no thread can be started when the process exits."""
        if self._home is not None:
            self._home.cleanup()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, answer: Coroutine[Any, Any, _Answer]) -> _Answer:
        return asyncio.run_coroutine_threadsafe(answer, self._loop).result()


def client_for(
    model: str | type[LabelStudioMLBase],
    directory: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Client:
    """A client of a new backend for a class, with its own temporary state.

    Args:
        model: the class, or ``"module:Class"``.
        directory: the module's directory; None if it is importable anyway.
        environ: the settings, ``os.environ`` by default. ``LSML_HOME`` is ignored, so
            that a test does not use a server's state.

    Raises:
        SettingsError: if an environment variable is invalid.
    """
    settings = Settings.from_env(os.environ if environ is None else environ)
    home = tempfile.TemporaryDirectory(prefix="lsml-test-", ignore_cleanup_errors=True)
    backend = make_backend(
        ModelSource(model, directory), settings, Path(home.name), "test"
    )
    return Client(asgi_app(backend, settings), backend, home)
