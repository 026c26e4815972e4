"""Ask a running instance, or one listener of it, to let nobody in any more and to finish what it has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from symphony.api.names import CONTROL
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxClient, MailboxError, MailboxTimeout, ask
from symphony.messages.control import (
    AwaitDrained,
    ControlReply,
    ControlRequest,
    DescribeService,
    DrainBegun,
    Drained,
    DrainService,
    ListenerResumed,
    ResumeListener,
    ServiceDescription,
)

_ANSWER_WITHIN_S = 10.0
_LOOK_EVERY_S = 0.25
_WITHOUT_END_S = 10 * 365 * 86400.0

Reply = TypeVar("Reply")


async def drain(
    runtime_dir: str,
    timeout_s: float | None,
    listener: str = "",
    on_change: Callable[[int], None] | None = None,
) -> int:
    """Drain the instance in `runtime_dir`, or its `listener`; return, once no connection is left, how many were cut.

    `listener` is an id or an address, "" for all. What is open still after `timeout_s` seconds is cut; None stands for
    the configuration's time for all, and for no limit for one listener. `on_change` is called with the number of
    connections that are left, at the beginning and whenever it has changed.

    Raises MailboxRefused when there is nothing to drain, and MailboxError when the instance does not answer or is gone
    before it has said what became of them.
    """
    client = MailboxClient(mailbox_path(runtime_dir, CONTROL), ControlReply, name=CONTROL)
    try:
        await _in_time(client.connect())
        beginning = asyncio.create_task(_call(client, DrainService(listener, timeout_s), DrainBegun))
        tasks: list[asyncio.Task[Any]] = [beginning]
        try:
            if listener:
                await beginning
            # Of a whole instance it is asked in the same breath: one that need not wait is gone a moment later.
            end = asyncio.create_task(_call(client, AwaitDrained(listener), Drained, _WITHOUT_END_S))
            tasks.append(end)
            begun = await beginning
            if on_change is not None:
                on_change(begun.connections)
            tasks.append(asyncio.create_task(_watch(client, begun, on_change)))
            return (await end).cut
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        await client.close()


async def resume_listener(runtime_dir: str, listener: str) -> ListenerResumed:
    """Let clients in again on a `listener` that drains.

    Raises MailboxRefused when there is none such, and MailboxError when the instance does not answer.
    """
    path = mailbox_path(runtime_dir, CONTROL)
    reply = await _in_time(ask(path, ResumeListener(listener), ControlReply, _ANSWER_WITHIN_S))
    return _checked(reply, ListenerResumed)


async def _watch(client: MailboxClient, begun: DrainBegun, on_change: Callable[[int], None] | None) -> None:
    told = begun.connections
    while on_change is not None:
        await asyncio.sleep(_LOOK_EVERY_S)
        service = await _call(client, DescribeService(), ServiceDescription)
        left = _left(service, begun.address)
        if left != told:
            on_change(left)
            told = left


def _left(service: ServiceDescription, address: str) -> int:
    if not address:
        return service.active + sum(before.connections for before in service.left)
    return sum(each.active for each in service.listeners if each.address == address)


async def _call(
    client: MailboxClient, message: ControlRequest, kind: type[Reply], timeout_s: float = _ANSWER_WITHIN_S
) -> Reply:
    return _checked(await client.call(message, timeout_s), kind)


def _checked(reply: object, kind: type[Reply]) -> Reply:
    if not isinstance(reply, kind):
        raise MailboxError("the answer is of another kind than was asked for")
    return reply


async def _in_time(work: object) -> object:
    try:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            return await work  # type: ignore[misc]
    except TimeoutError:
        raise MailboxTimeout(f"no answer within {_ANSWER_WITHIN_S:g} s") from None
