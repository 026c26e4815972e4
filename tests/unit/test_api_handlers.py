"""Whom a program has asked to be told: what one handler does harms no other, and fills no memory."""

from __future__ import annotations

import asyncio

import pytest

from symphony.api.events import SubscriberTooSlow
from symphony.api.handlers import Handlers


async def test_plain_and_async_handlers_are_told_until_they_are_taken_back() -> None:
    handlers, heard = Handlers(), list[str]()

    async def later(event: str) -> None:
        await asyncio.sleep(0)
        heard.append(f"later {event}")

    take_back = handlers.add("blocked", heard.append)
    handlers.add("blocked", later)
    handlers.add("actor", heard.append)
    handlers.tell("blocked", "one")
    await handlers.finish(1.0)
    take_back()
    take_back()
    handlers.tell("blocked", "two")
    await handlers.finish(1.0)
    assert heard == ["one", "later one", "later two"]
    assert handlers.wants("actor") and not handlers.wants("suspended", "released")


async def test_what_a_handler_raises_is_reported_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    handlers, heard, errors = Handlers(), list[int](), list[Exception]()

    def fails(_: int) -> None:
        raise RuntimeError("plain")

    async def fails_later(_: int) -> None:
        raise RuntimeError("async")

    def fails_at_errors(error: Exception) -> None:
        raise error

    handlers.add("blocked", fails)
    handlers.add("blocked", fails_later)
    handlers.add("blocked", heard.append)
    handlers.add("error", fails_at_errors)
    handlers.add("error", errors.append)
    for event in (1, 2):
        handlers.tell("blocked", event)
        await handlers.finish(1.0)
    assert heard == [1, 2]
    assert [str(error) for error in errors] == ["plain", "async"] * 2
    assert [record.getMessage() for record in caplog.records].count("a handler of 'blocked' has failed") == 4


async def test_a_handler_whose_calls_never_end_is_dropped_with_a_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handlers, called, heard, errors = Handlers(limit=3), list[int](), list[int](), list[Exception]()

    async def never(event: int) -> None:
        called.append(event)
        await asyncio.Event().wait()

    handlers.add("blocked", never)
    handlers.add("blocked", heard.append)
    handlers.add("error", errors.append)
    for event in range(6):
        handlers.tell("blocked", event)
        await asyncio.sleep(0)
    assert called == [0, 1, 2]
    assert heard == list(range(6))
    [error] = errors
    assert isinstance(error, SubscriberTooSlow) and "3 calls of a handler of 'blocked'" in str(error)
    assert "it is dropped" in caplog.text
    began = asyncio.all_tasks()
    await handlers.finish(0.0)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == len(began) - 3


async def test_who_asks_for_the_end_is_not_waited_for() -> None:
    handlers, done = Handlers(), asyncio.Event()

    async def stop(_: object) -> None:
        await handlers.finish(5.0)
        done.set()

    handlers.add("suspended", stop)
    handlers.tell("suspended", None)
    async with asyncio.timeout(2.0):
        await done.wait()


def test_a_kind_that_is_none() -> None:
    with pytest.raises(ValueError, match="no kind of event; expected one of suspended, "):
        Handlers().add("nonsense", print)  # type: ignore[arg-type]
