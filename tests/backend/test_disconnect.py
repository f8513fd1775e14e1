"""Noticing that a client disconnects."""

import asyncio

from lsml_bento.backend.predict import DisconnectWatch
from tests.fake_clock import run


def test_a_client_that_disconnects_is_noticed_once() -> None:
    calls: list[str] = []

    async def disconnects() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        with DisconnectWatch(disconnects, lambda: calls.append("gone")) as watch:
            await asyncio.sleep(1.9)
            assert not watch.has_disconnected
            await asyncio.sleep(5)
            assert watch.has_disconnected

    run(main())
    assert calls == ["gone"]


def test_a_quick_request_is_not_watched_at_all() -> None:
    watched: list[bool] = []

    async def disconnects() -> None:
        watched.append(True)

    async def main() -> None:
        with DisconnectWatch(disconnects, lambda: None) as watch:
            await asyncio.sleep(0.9)
        await asyncio.sleep(2)
        assert not watch.has_disconnected

    run(main())
    assert watched == []


def test_a_client_that_disconnects_after_the_answer_is_not_noticed() -> None:
    calls: list[str] = []

    async def disconnects() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        with DisconnectWatch(disconnects, lambda: calls.append("gone")):
            await asyncio.sleep(1.5)
        await asyncio.sleep(5)

    run(main())
    assert calls == []


def test_a_client_that_cannot_be_watched_never_disconnects() -> None:
    async def main() -> None:
        with DisconnectWatch(None, lambda: None) as watch:
            await asyncio.sleep(5)
        assert not watch.has_disconnected

    run(main())
