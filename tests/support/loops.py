"""Running a test on both event loops, and waiting for conditions on them."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from symphony.mailbox.client import MailboxClient

LIMIT_S = 20.0


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the coroutine function `test` once on asyncio's own loop and once on uvloop.

    It fails also on an exception that only the loop sees, such as one in a protocol's callback.
    """

    def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        unseen: list[dict[str, Any]] = []

        async def watched() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
            async with asyncio.timeout(3 * LIMIT_S):
                await test(**fixtures)

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(watched())
        assert not unseen

    signature = inspect.signature(test)
    factory = inspect.Parameter("loop_factory", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[factory, *signature.parameters.values()], return_annotation=None
    )
    run.__name__, run.__qualname__, run.__module__ = test.__name__, test.__qualname__, test.__module__
    run.__doc__ = test.__doc__
    run.pytestmark = list(getattr(test, "pytestmark", []))  # type: ignore[attr-defined]
    factories = [asyncio.new_event_loop, uvloop.new_event_loop]
    return pytest.mark.parametrize("loop_factory", factories, ids=["asyncio", "uvloop"])(run)


async def eventually(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> None:
    """Let the loop turn until `condition`; fail with `what` when it does not come true within `limit_s` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while not condition():
        assert loop.time() < deadline, f"not within {limit_s:g} s: {what}"
        await asyncio.sleep(0.002)


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


async def wait_connected(client: MailboxClient, timeout_s: float) -> bool:
    """Wait until a client is connected, for so many seconds at most; return whether it is."""
    deadline = time.monotonic() + timeout_s
    while not client.connected and time.monotonic() < deadline:  # noqa: ASYNC110 - a client tells nobody
        await asyncio.sleep(0.001)
    return client.connected
