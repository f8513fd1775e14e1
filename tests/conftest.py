"""Backends that are closed when their test ends, and one Redis for all tests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from tests.doubles import Client, Echo, client_of
from tests.redis_server import RedisServer

Serve = Callable[..., Client]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Makes clients: ``serve(model, state=None, directory=None, **environ)``."""
    clients: list[Client] = []

    def make(*arguments: object, **options: object) -> Client:
        clients.append(client_of(*arguments, **options))  # type: ignore[arg-type]
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def echo(serve: Serve) -> Client:
    """A client of a backend whose model answers every task with its text."""
    return serve(Echo)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis of our own; each test takes an owner of its own in it."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(autouse=True)
def _level_of_our_log() -> Iterator[None]:
    """Reset what a command that ran in the tests' process set for itself."""
    log = logging.getLogger("lsml_bento")
    level, propagate, handlers = log.level, log.propagate, list(log.handlers)
    yield
    log.setLevel(level)
    log.propagate, log.handlers[:] = propagate, handlers
