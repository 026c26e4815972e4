"""Work that nobody waits for: that it is noticed when it fails, and can be broken off."""

from __future__ import annotations

import asyncio

from structlog import get_logger
from structlog.testing import capture_logs

from symphony.api.background import BackgroundWork


async def test_what_fails_is_logged_with_its_name() -> None:
    async def fail() -> None:
        raise RuntimeError("out of luck")

    with capture_logs() as logs:
        BackgroundWork(get_logger(), "instance failed").begin(fail(), "look for luck")
        [task] = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait([task], timeout=5)
    [line] = logs
    assert (line["event"], line["during"]) == ("instance failed", "look for luck")
    assert str(line["exc_info"]) == "out of luck"


async def test_what_is_under_way_can_be_broken_off() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def last() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    work = BackgroundWork(get_logger(), "control failed")
    with capture_logs() as logs:
        work.begin(last(), "wait for ever")
        async with asyncio.timeout(5):
            await begun.wait()
            await work.cancel()
        assert ended.is_set()
        await work.cancel()  # nothing is left
    assert not logs
