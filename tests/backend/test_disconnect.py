"""Noticing that a client disconnects."""

import asyncio

from lsml_bento.backend.predict import watch_client
from tests.fake_clock import run


def test_a_client_that_disconnects_is_noticed_once() -> None:
    calls: list[str] = []

    async def disconnects() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        with watch_client(disconnects, lambda: calls.append("gone")):
            await asyncio.sleep(1.9)
            assert calls == []
            await asyncio.sleep(5)

    run(main())
    assert calls == ["gone"]


def test_a_quick_request_is_not_watched_at_all() -> None:
    watched: list[bool] = []

    async def disconnects() -> None:
        watched.append(True)

    async def main() -> None:
        with watch_client(disconnects, lambda: None):
            await asyncio.sleep(0.9)
        await asyncio.sleep(2)

    run(main())
    assert watched == []


def test_a_client_that_disconnects_after_the_answer_is_not_noticed() -> None:
    calls: list[str] = []

    async def disconnects() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        with watch_client(disconnects, lambda: calls.append("gone")):
            await asyncio.sleep(1.5)
        await asyncio.sleep(5)

    run(main())
    assert calls == []


def test_a_client_that_cannot_be_watched_never_disconnects() -> None:
    calls: list[str] = []

    async def main() -> None:
        with watch_client(None, lambda: calls.append("gone")):
            await asyncio.sleep(5)

    run(main())
    assert calls == []
