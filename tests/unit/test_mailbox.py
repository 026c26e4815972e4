"""A mailbox and its well-behaved senders, over real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections.abc import Iterator
from typing import Any

import pytest

from symphony.mailbox.client import MailboxRefused, ask
from symphony.mailbox.envelope import Refused
from symphony.mailbox.server import MAX_IN_FLIGHT, MailboxServer
from tests.support.loops import LIMIT_S, eventually, on_both_loops
from tests.support.mailbox import (
    Actor,
    Big,
    Echo,
    Echoed,
    Explode,
    Note,
    Reply,
    Request,
    Unsayable,
    Wait,
    connected,
    raw_peer,
    serving,
    socket_path,
)


@pytest.fixture
def path() -> Iterator[str]:
    with socket_path() as path:
        yield path


def exists(path: str) -> bool:
    return os.path.exists(path)


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


@on_both_loops
async def test_a_call_brings_the_reply(path: str) -> None:
    async with serving(path) as (_, actor), connected(path) as client:
        actor.gate.set()
        assert await client.call(Echo("at once")) == Echoed("at once")
        assert await client.call(Wait("later")) == Echoed("later")
        assert await ask(path, Echo("once"), Reply) == Echoed("once")


@on_both_loops
async def test_pipelined_requests_get_each_its_own_reply(path: str) -> None:
    async with serving(path) as (_, actor), connected(path) as client:
        got: dict[int, Any] = {}
        for number in range(3000):
            message = Wait(str(number)) if number % 3 == 0 else Echo(str(number))
            client.request(message, lambda reply, number=number: got.__setitem__(number, reply), LIMIT_S)
        assert got == {}
        await eventually(lambda: len(got) == 2000, "the replies that do not wait")
        actor.gate.set()
        await eventually(lambda: len(got) == 3000, "all replies")
        assert got == {number: Echoed(str(number)) for number in range(3000)}


@on_both_loops
async def test_a_cast_arrives_and_is_not_answered(path: str) -> None:
    async with serving(path) as (_, actor), connected(path) as client:
        pushed: list[Any] = []
        client.on_push = pushed.append
        assert client.cast(Note("one"))
        assert client.cast(Echo("two"))
        assert client.cast(Wait("three"))
        actor.gate.set()
        assert await client.call(Echo("four")) == Echoed("four")
        assert actor.seen == [Note("one"), Echo("two"), Wait("three"), Echo("four")]
        assert pushed == []


@on_both_loops
async def test_waiting_for_the_reply_of_a_message_without_one_is_refused(path: str) -> None:
    async with serving(path), connected(path) as client:
        with pytest.raises(MailboxRefused, match="Note has no reply"):
            await client.call(Note("?"))


@on_both_loops
@pytest.mark.parametrize(
    ("message", "error"),
    [(Explode(False), "at once"), (Explode(True), "later"), (Unsayable(), "Encoding objects of type object")],
)
async def test_a_handler_that_fails_is_logged_and_its_sender_refused(
    path: str, message: Any, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(path), connected(path) as client:
        with pytest.raises(MailboxRefused, match="internal error"):
            await client.call(message)
        (record,) = caplog.records
        assert type(message).__name__ in record.getMessage()
        assert record.exc_info is not None
        assert error in caplog.text
        assert "Traceback" in caplog.text
        assert await client.call(Echo("goes on")) == Echoed("goes on")


@on_both_loops
async def test_the_server_knows_its_senders(path: str) -> None:
    async with serving(path) as (_, actor):
        closed: list[str] = []
        async with connected(path) as client:
            await client.call(Echo("here"))
            (sender,) = actor.senders
            assert (sender.pid, sender.uid) == (os.getpid(), os.geteuid())
            sender.on_close(lambda: 1 / 0)
            sender.on_close(lambda: closed.append("early"))
            pushed: list[Any] = []
            client.on_push = pushed.append
            assert sender.push(Echoed("news"))
            await eventually(lambda: pushed == [Echoed("news")], "the push")
            assert not sender.closed
            assert closed == []
        await eventually(lambda: closed == ["early"], "on_close")
        assert sender.closed
        assert not sender.push(Echoed("nobody"))
        sender.on_close(lambda: closed.append("late"))
        await eventually(lambda: closed == ["early", "late"], "on_close of a closed sender")


@on_both_loops
async def test_one_message_may_be_larger_than_the_high_water_mark(path: str) -> None:
    async with serving(path, high_water=1 << 16) as (_, actor), connected(path) as client:
        assert len((await client.call(Big(10 << 20))).text) == 10 << 20
        (sender,) = actor.senders
        pushed: list[Any] = []
        client.on_push = pushed.append
        assert sender.push(Echoed("y" * (10 << 20)))
        await eventually(lambda: len(pushed) == 1, "the push")
        assert await client.call(Echo("still here")) == Echoed("still here")


@on_both_loops
async def test_depth_counts_what_is_not_answered(path: str) -> None:
    async with serving(path) as (server, actor), connected(path) as client:
        assert server.depth == 0
        calls = [asyncio.ensure_future(client.call(Wait(str(number)))) for number in range(5)]
        await eventually(lambda: server.depth == 5, "five in flight")
        actor.gate.set()
        await asyncio.gather(*calls)
        assert server.depth == 0


@on_both_loops
async def test_requests_in_flight_are_bounded_per_sender(path: str) -> None:
    total = 40_000
    async with serving(path) as (server, actor), raw_peer(path) as peer, connected(path) as other:
        stream = b"".join(peer.frame(Wait("x" * 50), id=number + 1) for number in range(total))
        peer.writer.write(stream)
        writing = asyncio.ensure_future(peer.writer.drain())
        await eventually(lambda: len(actor.seen) == MAX_IN_FLIGHT, "the bound reached")
        # Another sender is served meanwhile, and all that time nothing more is taken from the first.
        for number in range(50):
            assert await other.call(Echo(str(number))) == Echoed(str(number))
        assert len(actor.seen) == MAX_IN_FLIGHT + 50
        assert server.depth < total / 4
        assert not writing.done()
        actor.gate.set()
        answered: set[int] = set()
        while len(answered) < total:
            envelope = await peer.receive()
            assert envelope is not None
            answered.add(envelope.id)
        assert answered == set(range(1, total + 1))
        await writing
        assert server.depth == 0


@on_both_loops
async def test_a_request_that_is_late_already_is_not_worked_on(path: str) -> None:
    async with serving(path) as (_, actor), raw_peer(path) as peer:
        now = time.monotonic()
        peer.send(Echo("late"), id=1, deadline=now - 0.001)
        peer.send(Echo("in time"), id=2, deadline=now + LIMIT_S)
        peer.send(Echo("no hurry"), id=3)
        answers = [await peer.receive(), await peer.receive()]
        assert [(answer.id, answer.body) for answer in answers if answer] == [
            (2, Echoed("in time")),
            (3, Echoed("no hurry")),
        ]
        assert actor.seen == [Echo("in time"), Echo("no hurry")]


@on_both_loops
async def test_a_request_outlives_its_sender(path: str) -> None:
    async with serving(path) as (server, actor):
        async with raw_peer(path) as peer:
            peer.send(Wait("orphan"))
            await eventually(lambda: server.depth == 1, "the request")
        await eventually(lambda: actor.senders[0].closed, "the sender to go")
        assert server.depth == 1
        actor.gate.set()
        await eventually(lambda: server.depth == 0, "the handler to end")


@on_both_loops
async def test_close_cancels_handlers_and_sends_what_is_ready(path: str) -> None:
    async with serving(path) as (server, _), raw_peer(path) as peer:
        peer.send(Wait("never"), id=1)
        peer.send(Big(1 << 20), id=2)
        await eventually(lambda: server.depth == 1, "both requests")
        await asyncio.gather(server.close(), last_words(peer))
        assert not exists(path)
        await server.close()


async def last_words(peer: Any) -> None:
    got = {}
    while (envelope := await peer.receive()) is not None:
        got[envelope.id] = envelope.body
    assert got[1] == Refused("cancelled")
    assert len(got[2].text) == 1 << 20


@on_both_loops
async def test_close_does_not_wait_for_a_sender_that_does_not_read(path: str) -> None:
    async with serving(path) as (server, actor), raw_peer(path) as peer:
        peer.writer.transport.pause_reading()
        peer.send(Big(3 << 20))
        await eventually(lambda: len(actor.seen) == 1, "the request")
        began = time.monotonic()
        await server.close()
        assert time.monotonic() - began < 5


@on_both_loops
async def test_only_the_owner_may_open_the_socket(path: str) -> None:
    before = os.umask(0)
    try:
        async with serving(path):
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    finally:
        os.umask(before)
    assert not exists(path)


@on_both_loops
async def test_a_socket_left_behind_is_replaced(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(path)
    async with serving(path):
        assert await ask(path, Echo("new"), Reply) == Echoed("new")


@on_both_loops
async def test_what_is_no_socket_is_not_replaced(path: str) -> None:
    write(path, "precious")
    with pytest.raises(FileExistsError, match="is not a socket"):
        await MailboxServer(path, Request, Actor().handle).start()
    assert read(path) == "precious"


@on_both_loops
async def test_a_server_that_closes_late_leaves_its_successor_the_path(path: str) -> None:
    async with serving(path) as (old, _), serving(path):
        await old.close()
        assert await ask(path, Echo("successor"), Reply) == Echoed("successor")
