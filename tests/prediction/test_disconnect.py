"""Noticing that a client hung up."""

import asyncio

from lsml_bento.prediction.disconnect import DisconnectWatch
from tests.fake_clock import run


def test_a_client_that_goes_is_noticed_once() -> None:
    calls: list[str] = []

    async def goes() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        with DisconnectWatch(goes, lambda: calls.append("gone")) as watch:
            await asyncio.sleep(1.9)
            assert not watch.is_gone
            await asyncio.sleep(5)
            assert watch.is_gone

    run(main())
    assert calls == ["gone"]


def test_a_quick_request_is_not_watched_at_all() -> None:
    watched: list[bool] = []

    async def goes() -> None:
        watched.append(True)

    async def main() -> None:
        with DisconnectWatch(goes, lambda: None) as watch:
            await asyncio.sleep(0.9)
        await asyncio.sleep(2)
        assert not watch.is_gone

    run(main())
    assert watched == []


def test_nothing_is_heard_of_a_client_that_goes_after_the_answer() -> None:
    calls: list[str] = []

    async def goes() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        with DisconnectWatch(goes, lambda: calls.append("gone")):
            await asyncio.sleep(1.5)
        await asyncio.sleep(5)

    run(main())
    assert calls == []


def test_a_client_that_can_not_be_watched_is_never_gone() -> None:
    async def main() -> None:
        with DisconnectWatch(None, lambda: None) as watch:
            await asyncio.sleep(5)
        assert not watch.is_gone

    run(main())
