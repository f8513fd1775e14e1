"""``init_app`` for a ``test_api.py`` that was written for Flask's test client.

Requests go in-process through the server's routes and all their checks. Values that
``set`` stores are deleted with the client.
"""

from __future__ import annotations

import atexit
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import FunctionType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import httpx

from lsml_bento.model.base_class import PREDICT_MARK, UPDATE_MARK, LabelStudioMLBase

if TYPE_CHECKING:
    from lsml_bento import testing

log = logging.getLogger(__name__)

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])

_FOR_TESTS = (
    "this app is for tests: serve the directory with `lsml-bento start DIR -p 9090`"
)


def init_app(
    model_class: type[LabelStudioMLBase],
    basic_auth_user: str | None = None,
    basic_auth_pass: str | None = None,
    **init_kwargs: Any,
) -> App:
    """An app that tests can call.

    Args:
        model_class: ``LabelStudioMLBase`` itself stands for the module with functions
            decorated with ``predict_fn`` and ``update_fn``.
        basic_auth_user: ``BASIC_AUTH_USER`` by default.
        basic_auth_pass: ``BASIC_AUTH_PASS`` by default.
        init_kwargs: arguments that version 1.0 passed to the class; ignored.

    Raises:
        ValueError: if it is not a subclass of ``LabelStudioMLBase``.
    """
    if not (
        inspect.isclass(model_class) and issubclass(model_class, LabelStudioMLBase)
    ):
        raise ValueError(
            f"init_app() got {model_class!r}: pass a subclass of LabelStudioMLBase"
        )
    if init_kwargs:
        log.warning(
            "init_app(%s=...) is not passed to the class: read it in setup() from the "
            "environment or from self.extra_params",
            "=..., ".join(init_kwargs),
        )
    return App(model_class, basic_auth_user, basic_auth_pass)


class App:
    """The parts of a Flask app that files written for ``label_studio_ml`` use.

    What they add to the app is ignored, and the log says so: routes of their own,
    functions that run before or after requests, and middleware.

    Attributes:
        config: stored and ignored.
        logger: for messages of the files.
    """

    def __init__(
        self,
        model_class: type[LabelStudioMLBase],
        user: str | None,
        password: str | None,
    ) -> None:
        self.config: dict[str, Any] = {}
        self.logger = log
        self._model_class = model_class
        self._user = user
        self._password = password

    def test_client(self, **_: Any) -> Client:
        return Client(self)

    def backend(self) -> testing.Client:
        """A new backend for the class, with the current environment's settings.

        Raises:
            SettingsError: if an environment variable is invalid.
        """
        # Late: only tests that send a request need BentoML.
        from lsml_bento.testing import client_for  # noqa: PLC0415

        auth = {"BASIC_AUTH_USER": self._user, "BASIC_AUTH_PASS": self._password}
        given = {name: value for name, value in auth.items() if value}
        return client_for(_target(self._model_class), environ={**os.environ, **given})

    def run(self, *_: Any, **__: Any) -> NoReturn:
        """Exit and say how to serve the directory.

        Raises:
            SystemExit: always.
        """
        raise SystemExit(_FOR_TESTS)

    def wsgi_app(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse requests; middleware may wrap it.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(_FOR_TESTS)

    def app_context(self) -> AbstractContextManager[None]:
        """A context that does nothing."""
        return nullcontext()

    def route(self, rule: str, **_: Any) -> Callable[[_Decorated], _Decorated]:
        """Ignore the route, and leave the function unchanged."""
        log.warning("Route ignored: %s; only Label Studio's routes are served", rule)
        return lambda function: function

    get = post = put = patch = delete = route

    def add_url_rule(self, rule: str, *_: Any, **__: Any) -> None:
        """Ignore the route."""
        self.route(rule)

    def register_blueprint(self, blueprint: Any, **_: Any) -> None:
        """Ignore the routes of a blueprint."""
        self.route(f"blueprint {getattr(blueprint, 'name', blueprint)}")

    def before_request(self, function: _Decorated) -> _Decorated:
        """Ignore the function, and leave it unchanged."""
        name = getattr(function, "__name__", function)
        log.warning("Function ignored: %s; it does not run with requests", name)
        return function

    after_request = teardown_request = teardown_appcontext = before_request
    before_first_request = before_request

    def errorhandler(self, _: Any) -> Callable[[_Decorated], _Decorated]:
        """Ignore the function, and leave it unchanged."""
        return self.before_request

    def __getattr__(self, name: str) -> NoReturn:
        known = ", ".join(n for n in dir(type(self)) if not n.startswith("_"))
        raise AttributeError(
            f"the app that init_app() returns is not a Flask app and has no {name!r}; "
            f"it has: config, logger, {known}"
        )


class Client:
    """The parts of Flask's test client that tests use; starts at its first request."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._backend: testing.Client | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        if self._backend is not None:
            atexit.unregister(self._backend.delete_files)
            self._backend.close()
            self._backend = None

    def get(self, path: str, **options: Any) -> Response:
        return self.open(path, method="GET", **options)

    def post(self, path: str, **options: Any) -> Response:
        return self.open(path, method="POST", **options)

    def open(
        self,
        path: str,
        *,
        method: str = "GET",
        data: str | bytes | Mapping[str, Any] | None = None,
        json: Any = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | list[tuple[str, str]] | None = None,
        query_string: Mapping[str, Any] | str | None = None,
        auth: tuple[str, str] | None = None,
    ) -> Response:
        """Send a request and wait for the response; arguments as in Flask.

        Raises:
            SettingsError: if an environment variable is invalid.
        """
        if self._backend is None:
            self._backend = self._app.backend()
            atexit.register(self._backend.delete_files)  # for a client without "with"
        sent = httpx.Headers(headers)
        if content_type:
            sent["Content-Type"] = content_type
        body: dict[str, Any] = {
            "data" if isinstance(data, Mapping) else "content": data
        }
        if json is not None:
            body = {"json": json}
        return Response(
            self._backend.request(
                method, path, headers=sent, params=query_string, auth=auth, **body
            )
        )


class Response:
    """The parts of Flask's response that tests read.

    Attributes:
        status_code: for example 200.
        headers: with case-insensitive names.
        data: the body.
    """

    def __init__(self, received: httpx.Response) -> None:
        self.status_code = received.status_code
        self.status = f"{received.status_code} {received.reason_phrase.upper()}"
        self.headers = received.headers
        self.content_type = received.headers.get("content-type")
        self.data = received.content
        self.text = received.text

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    def get_json(self, force: bool = False, silent: bool = False) -> Any:
        """The body's JSON; None if it is invalid and ``silent`` is true."""
        try:
            return self.json
        except ValueError:
            if silent:
                return None
            raise

    def get_data(self, as_text: bool = False) -> str | bytes:
        return self.text if as_text else self.data


def _target(model_class: type[LabelStudioMLBase]) -> str | type[LabelStudioMLBase]:
    """The class as ``"module:Class"``, so that the module's functions are used too."""
    if model_class is LabelStudioMLBase:
        return _module_with_functions() or model_class
    name = model_class.__module__
    if getattr(sys.modules.get(name), model_class.__name__, None) is not model_class:
        return model_class
    return f"{name}:{model_class.__name__}"


def _module_with_functions() -> str | None:
    """The most recently imported module that defines a decorated function."""
    for name, module in reversed(list(sys.modules.items())):
        for value in list(vars(module).values()):
            if (
                isinstance(value, FunctionType)
                and value.__module__ == name
                and vars(value).keys() & {PREDICT_MARK, UPDATE_MARK}
            ):
                return name
    return None
