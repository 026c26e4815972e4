"""Names to addresses; where a test needs a name service that hangs or changes its mind, it is one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from symphony.connection import resolver as resolver_module
from symphony.connection.resolver import Address, Resolver, literal

V4 = int(socket.AF_INET)
V6 = int(socket.AF_INET6)


class NameService:
    """A loop's clock and look-ups, both in the hands of the test."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.now = 1000.0
        self.asked: list[tuple[str, int]] = []
        self.pending: list[asyncio.Future[Any]] = []
        self.create_task = self._loop.create_task

    def time(self) -> float:
        return self.now

    async def getaddrinfo(self, host: str, port: int, *, type: int) -> Any:
        self.asked.append((host, port))
        future: asyncio.Future[Any] = self._loop.create_future()
        self.pending.append(future)
        return await future

    async def answer(self, *addresses: str) -> None:
        found = [(V4, 1, 6, "", (address, 80)) for address in addresses]
        await asyncio.sleep(0)  # the look-up begins
        self.pending.pop(0).set_result(found)
        for _ in range(3):
            await asyncio.sleep(0)

    async def fail(self) -> None:
        await asyncio.sleep(0)
        self.pending.pop(0).set_exception(socket.gaierror(-2, "Name or service not known"))
        for _ in range(3):
            await asyncio.sleep(0)


def make() -> tuple[NameService, Resolver, Callable[[str], list[Sequence[Address]]]]:
    service = NameService()
    resolver = Resolver(service)  # type: ignore[arg-type]

    def ask(host: str) -> list[Sequence[Address]]:
        answers: list[Sequence[Address]] = []
        known = resolver.addresses(host, 80, answers.append)
        assert known is bool(answers)
        return answers

    return service, resolver, ask


def of(*addresses: str) -> tuple[Address, ...]:
    return tuple((V4, (address, 80)) for address in addresses)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", (V4, ("127.0.0.1", 80))),
        ("::1", (V6, ("::1", 80, 0, 0))),
        ("fe80::1%lo", (V6, ("fe80::1", 80, 0, socket.if_nametoindex("lo")))),
        ("localhost", None),
        ("127.1", None),
        ("fe80::1%no-such-link", None),
        ("1.2.3.4.5", None),
        ("", None),
    ],
)
def test_literal(host: str, expected: Address | None) -> None:
    assert literal(host, 80) == expected


async def test_literal_addresses_are_never_looked_up() -> None:
    service, _, ask = make()
    assert ask("127.0.0.1") == [((V4, ("127.0.0.1", 80)),)]
    service.now += 1e9
    assert ask("127.0.0.1") == [((V4, ("127.0.0.1", 80)),)]
    assert service.asked == []


async def test_real_look_up() -> None:
    resolver = Resolver(asyncio.get_running_loop())
    answer: asyncio.Future[Sequence[Address]] = asyncio.get_running_loop().create_future()
    resolver.addresses("localhost", 80, answer.set_result)
    async with asyncio.timeout(5):
        assert (V4, ("127.0.0.1", 80)) in await answer
    resolver.close()


async def test_real_name_that_no_resolver_would_take() -> None:
    resolver = Resolver(asyncio.get_running_loop())
    answer: asyncio.Future[Sequence[Address]] = asyncio.get_running_loop().create_future()
    with capture_logs() as logs:
        resolver.addresses("double..dot", 80, answer.set_result)
        async with asyncio.timeout(5):
            assert await answer == ()
    assert [line["event"] for line in logs] == ["lookup_failed"]
    resolver.close()


async def test_first_ones_wait_for_one_look_up_and_later_ones_do_not_wait() -> None:
    service, resolver, ask = make()
    first, second = ask("a.test"), ask("a.test")
    other = ask("b.test")
    assert first == second == other == []
    await service.answer("10.0.0.1", "10.0.0.2", "10.0.0.1")
    assert first == second == [of("10.0.0.1", "10.0.0.2")]  # each address once, in order
    assert other == []
    assert ask("a.test") == [of("10.0.0.1", "10.0.0.2")]
    assert service.asked == [("a.test", 80), ("b.test", 80)]
    resolver.close()
    await asyncio.sleep(0)


async def test_stale_answer_serves_while_it_is_looked_up_again() -> None:
    service, _, ask = make()
    ask("a.test")
    await service.answer("10.0.0.1")
    service.now += resolver_module.FRESH_S - 0.1
    assert ask("a.test") == [of("10.0.0.1")]
    assert len(service.asked) == 1
    service.now += 0.2
    assert ask("a.test") == ask("a.test") == [of("10.0.0.1")]
    await service.answer("10.0.0.9")
    assert len(service.asked) == 2
    assert ask("a.test") == [of("10.0.0.9")]


async def test_name_service_that_is_down_takes_nothing_down_with_it() -> None:
    service, _, ask = make()
    ask("a.test")
    await service.answer("10.0.0.1")
    for _ in range(3):
        service.now += resolver_module.FRESH_S + 1
        with capture_logs() as logs:
            assert ask("a.test") == [of("10.0.0.1")]
            await service.fail()
        assert logs[0]["served_from_memory"] is True
        assert ask("a.test") == [of("10.0.0.1")]
    assert len(service.asked) == 4


async def test_failure_is_the_answer_for_a_while_and_then_it_is_tried_again() -> None:
    service, _, ask = make()
    waiting = ask("a.test")
    with capture_logs():
        await service.fail()
    assert waiting == [()]
    assert ask("a.test") == [()]
    assert len(service.asked) == 1
    service.now += resolver_module.RETRY_S + 0.1
    again = ask("a.test")
    assert again == []
    await service.answer("10.0.0.1")
    assert again == [of("10.0.0.1")]


async def test_close_ends_look_ups() -> None:
    service, resolver, ask = make()
    waiting = ask("a.test")
    await asyncio.sleep(0)
    resolver.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waiting == [] and service.pending[0].cancelled()
