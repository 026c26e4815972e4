"""A mailbox's client: what becomes of requests when the other side is slow, gone, back or wrong."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from symphony.mailbox.client import (
    OUTBOUND_LIMIT,
    MailboxClient,
    MailboxDown,
    MailboxRefused,
    MailboxTimeout,
    ask,
)
from symphony.mailbox.framing import encode_frame
from symphony.mailbox.server import MailboxServer
from tests.support.loops import LIMIT_S, eventually, on_both_loops, wait_connected
from tests.support.mailbox import (
    Actor,
    Big,
    Echo,
    Echoed,
    Explode,
    RawPeer,
    Reply,
    Request,
    Wait,
    connected,
    serving,
    socket_path,
)


@pytest.fixture
def path() -> Iterator[str]:
    with socket_path() as path:
        yield path


@asynccontextmanager
async def raw_server(path: str, serve: Callable[[RawPeer], Any]) -> AsyncIterator[list[RawPeer]]:
    """A server that leaves its connections to `serve`."""
    peers: list[RawPeer] = []
    tasks: list[asyncio.Task[None]] = []

    async def converse(peer: RawPeer) -> None:
        try:
            await serve(peer)
        finally:
            await peer.close()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(RawPeer(reader, writer))
        tasks.append(asyncio.ensure_future(converse(peers[-1])))

    server = await asyncio.start_unix_server(accepted, path)
    try:
        yield peers
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def do_nothing(peer: RawPeer) -> None:
    await asyncio.Event().wait()


@on_both_loops
async def test_nobody_there(path: str) -> None:
    client = MailboxClient(path, Reply, name="limiter")
    client.start()
    try:
        replies: list[Any] = []
        client.request(Echo("x"), replies.append, LIMIT_S)
        assert replies == [None]
        assert not client.cast(Echo("x"))
        assert not client.connected
        with pytest.raises(MailboxDown, match="limiter"):
            await client.call(Echo("x"), LIMIT_S)
        assert not await wait_connected(client, 0.05)
        async with serving(path):
            assert await wait_connected(client, LIMIT_S)
            assert await client.call(Echo("x")) == Echoed("x")
    finally:
        await client.close()


@on_both_loops
async def test_ask_says_what_is_wrong(path: str) -> None:
    with pytest.raises(MailboxDown):
        await ask(path, Echo("x"), Reply)
    async with serving(path):
        with pytest.raises(MailboxRefused) as caught:
            await ask(path, Explode(False), Reply)
        assert caught.value.reason == "internal error"
        with pytest.raises(MailboxTimeout):
            await ask(path, Wait("x"), Reply, 0.05)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    with pytest.raises(MailboxDown):
        await ask(path, Echo("x"), Reply)


@on_both_loops
async def test_a_full_backlog_is_down_and_not_a_connection(path: str) -> None:
    client = MailboxClient(path, Reply)
    fillers: list[socket.socket] = []
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        listener.listen(0)
        with pytest.raises(BlockingIOError):
            for _ in range(100):
                fillers.append(socket.socket(socket.AF_UNIX))
                fillers[-1].setblocking(False)
                fillers[-1].connect(path)
        with pytest.raises(MailboxDown):
            await client.connect()
        assert not client.connected
        client.start()
        assert not await wait_connected(client, 0.1)
        listener.listen(10)
        assert await wait_connected(client, LIMIT_S)
    finally:
        await client.close()
        for sock in (listener, *fillers):
            sock.close()


@on_both_loops
async def test_a_request_that_is_not_answered_in_time(path: str) -> None:
    async with serving(path) as (_, actor), connected(path) as client:
        told: list[tuple[str, float]] = []
        began = time.monotonic()

        def note(what: str, reply: Any) -> None:
            assert reply is None
            told.append((what, time.monotonic() - began))

        client.request(Wait("x"), partial(note, "0.3"), 0.3)
        client.request(Wait("x"), partial(note, "0.05"), 0.05)
        client.request(Wait("x"), partial(note, "0.15"), 0.15)
        client.request(Wait("x"), partial(note, "0"), 0.0)
        assert told == []
        await eventually(lambda: len(told) == 4, "all given up")
        assert [what for what, _ in told] == ["0", "0.05", "0.15", "0.3"]
        assert all(float(what) <= after < float(what) + 2 for what, after in told)
        with pytest.raises(MailboxTimeout, match=r"no reply within 0\.05 s"):
            await client.call(Wait("x"), 0.05)
        # Replies come after all, and are dropped: no callback is called twice, and ids do not get mixed up.
        actor.gate.set()
        assert await client.call(Echo("next")) == Echoed("next")
        assert len(told) == 4


@on_both_loops
async def test_a_reply_in_time_is_followed_by_no_timeout(path: str) -> None:
    async with serving(path), connected(path) as client:
        replies: list[Any] = []
        for _ in range(100):
            client.request(Echo("x"), replies.append, 0.5)
        await eventually(lambda: len(replies) == 100, "the replies")
        with pytest.raises(MailboxTimeout):
            await client.call(Wait("x"), 0.7)
        assert replies == [Echoed("x")] * 100


@on_both_loops
async def test_deadlines_hold_after_the_loop_stood_still(path: str) -> None:
    async with serving(path), connected(path) as client:
        order: list[int] = []
        for number in range(50):
            client.request(Wait("x"), lambda _, number=number: order.append(number), 0.02 + number * 0.004)
        await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251 - that is the point
        await eventually(lambda: len(order) == 50, "all given up")
        assert order == sorted(order)


async def test_a_thousand_requests_cost_one_timer_and_none_when_answered(path: str) -> None:
    async with serving(path) as (_, actor), connected(path) as client:
        await client.call(Echo("warm"))
        loop: Any = asyncio.get_running_loop()

        def timers() -> int:
            return sum(not handle.cancelled() for handle in loop._scheduled)

        await eventually(lambda: timers() == 0, "no timer at rest")
        replies: list[Any] = []
        for number in range(1000):
            client.request(Wait("x"), replies.append, LIMIT_S + number)
        assert timers() == 1
        actor.gate.set()
        await eventually(lambda: len(replies) == 1000, "the replies")
        await eventually(lambda: timers() == 0, "the timer to stop")


@on_both_loops
async def test_losing_the_connection_answers_everything_pending_at_once(path: str) -> None:
    async with raw_server(path, do_nothing) as peers, connected(path) as client:
        down: list[str] = []
        client.on_down = lambda: down.append("down")
        replies: list[Any] = []
        for _ in range(100):
            client.request(Wait("x"), replies.append, LIMIT_S)
        call = asyncio.ensure_future(client.call(Wait("x"), LIMIT_S))
        await eventually(lambda: peers, "the connection")
        began = time.monotonic()
        peers[0].writer.transport.abort()
        with pytest.raises(MailboxDown):
            await call
        assert replies == [None] * 100
        assert down == ["down"]
        assert time.monotonic() - began < LIMIT_S / 2


@on_both_loops
async def test_it_is_back_after_the_server_was_restarted(path: str) -> None:
    client = MailboxClient(path, Reply)
    log: list[str] = []
    client.on_up = lambda: log.append("up")
    client.on_down = lambda: log.append("down")
    client.start()
    try:
        for turn in range(1, 4):
            async with serving(path):
                assert await wait_connected(client, LIMIT_S)
                assert await client.call(Echo(str(turn))) == Echoed(str(turn))
            await eventually(lambda: not client.connected, "the loss to be seen")
            assert log == ["up", "down"] * turn
    finally:
        await client.close()
    assert log == ["up", "down"] * 3, "closing is no loss"


@on_both_loops
async def test_what_is_sent_from_on_up_arrives_first(path: str) -> None:
    client = MailboxClient(path, Reply)
    client.on_up = lambda: client.request(Echo("subscribe"), lambda reply: None, LIMIT_S)
    async with serving(path) as (_, actor):
        client.start()
        try:
            assert await wait_connected(client, LIMIT_S)
            await client.call(Echo("then this"))
            assert actor.seen == [Echo("subscribe"), Echo("then this")]
        finally:
            await client.close()


@on_both_loops
async def test_a_server_that_cuts_off_at_once_is_not_hammered(path: str) -> None:
    async def cut_off(peer: RawPeer) -> None:
        peer.writer.transport.abort()

    client = MailboxClient(path, Reply)
    async with raw_server(path, cut_off) as peers:
        client.start()
        try:
            await eventually(lambda: len(peers) >= 3, "attempts")
            await asyncio.sleep(0.6)
            # 10, 20, 40, 80, 160, 320 ms and then 500: without back-off it would be hundreds.
            assert len(peers) <= 12
        finally:
            await client.close()


@on_both_loops
@pytest.mark.parametrize(
    "answer",
    [
        encode_frame(b"\xc1"),
        bytes(4),
        b"\xff\xff\xff\xff",
        RawPeer.frame(Echoed("x"), version=9),
        RawPeer.frame(Echo("x")),
        encode_frame(b"\x94\x01\x01\xcb" + bytes(8) + b"\x91" * 100_000),
    ],
    ids=lambda answer: answer[:8].hex(),
)
async def test_a_server_that_answers_garbage(
    path: str, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def babble(peer: RawPeer) -> None:
        peer.writer.write(answer)
        await peer.reader.read()

    client = MailboxClient(path, Reply, name="babbler")
    ups: list[str] = []
    client.on_up = lambda: ups.append("up")
    async with raw_server(path, babble):
        client.start()
        try:
            await eventually(lambda: len(ups) >= 3, "it to try again")
        finally:
            await client.close()
    records = [record for record in caplog.records if record.name == "symphony.mailbox.client"]
    assert [record.levelname for record in records] == ["ERROR"], "told once, not at every attempt"
    assert records[0].getMessage().startswith("babbler: ")


@on_both_loops
async def test_a_reply_to_nothing_is_dropped(path: str) -> None:
    async def answer(peer: RawPeer) -> None:
        peer.send(Echoed("unasked"), id=12345)
        while (request := await peer.receive_request()) is not None:
            peer.send(Echoed("right"), id=request.id)
            peer.send(Echoed("twice"), id=request.id)

    async with raw_server(path, answer), connected(path) as client:
        assert await client.call(Echo("one")) == Echoed("right")
        assert await client.call(Echo("two")) == Echoed("right")


@on_both_loops
async def test_what_waits_to_be_sent_is_bounded(path: str) -> None:
    async def never_read(peer: RawPeer) -> None:
        peer.writer.transport.pause_reading()
        await asyncio.Event().wait()

    async with raw_server(path, never_read) as peers, connected(path) as client:
        await eventually(lambda: peers, "the connection")
        await asyncio.sleep(0)
        size = 1 << 14
        sent = 0
        while client.cast(Echo("x" * size)):
            sent += 1
            assert sent * size < 4 * OUTBOUND_LIMIT, "the backlog has no bound"
            if sent % 8 == 0:
                await asyncio.sleep(0)
        assert sent * size > OUTBOUND_LIMIT / 2
        replies: list[Any] = []
        client.request(Echo("x"), replies.append, LIMIT_S)
        assert replies == [None]
        with pytest.raises(MailboxDown):
            await client.call(Echo("x"))
        began = time.monotonic()
    assert time.monotonic() - began < 5, "closing waits for a second, not for the reader"


@on_both_loops
async def test_what_waits_is_bounded_within_one_turn_of_the_loop(path: str) -> None:
    async def never_read(peer: RawPeer) -> None:
        peer.writer.transport.pause_reading()
        await asyncio.Event().wait()

    async with raw_server(path, never_read) as peers, connected(path) as client:
        await eventually(lambda: peers, "the connection")
        sent = 0
        while client.cast(Echo("x" * 1000)):
            sent += 1
            assert sent * 1000 < 4 * OUTBOUND_LIMIT, "the backlog has no bound"


@on_both_loops
async def test_a_callback_that_fails_is_logged_and_harms_nobody(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    async with serving(path) as (_, actor), connected(path) as client:
        client.on_push = fail
        replies: list[Any] = []
        client.request(Echo("one"), fail, LIMIT_S)
        client.request(Echo("two"), replies.append, LIMIT_S)
        await eventually(lambda: replies == [Echoed("two")], "the second reply")
        actor.senders[0].push(Echoed("news"))
        client.request(Wait("x"), fail, 0.02)
        client.request(Wait("x"), replies.append, 0.02)
        await eventually(lambda: replies[1:] == [None], "the second timeout")
        assert [record.exc_info is not None for record in caplog.records] == [True] * 3


@on_both_loops
async def test_close_answers_what_is_pending_and_sends_what_was_cast(path: str) -> None:
    async with serving(path) as (_, actor):
        replies: list[Any] = []
        async with connected(path) as client:
            client.request(Wait("x"), replies.append, LIMIT_S)
            assert client.cast(Echo("last words"))
        assert replies == [None]
        await eventually(lambda: Echo("last words") in actor.seen, "what was cast")
        assert not client.connected
        assert not client.cast(Echo("x"))
        await client.close()


@on_both_loops
async def test_a_cancelled_call_leaves_the_client_usable(path: str) -> None:
    async with serving(path) as (_, actor), connected(path) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.call(Wait("x"), LIMIT_S)
        actor.gate.set()
        assert await client.call(Echo("next")) == Echoed("next")


@on_both_loops
async def test_replies_of_a_pipeline_come_in_order(path: str) -> None:
    async with serving(path), connected(path) as client:
        order: list[str] = []
        for number in range(500):
            client.request(Echo(str(number)), lambda reply: order.append(reply.text), LIMIT_S)
        await eventually(lambda: len(order) == 500, "all replies")
        assert order == [str(number) for number in range(500)]
        assert len((await client.call(Big(1 << 21))).text) == 1 << 21


def test_a_client_can_be_made_before_there_is_a_loop(path: str) -> None:
    client = MailboxClient(path, Reply)
    assert not client.connected
    assert not client.cast(Echo("x"))

    async def use() -> None:
        server = MailboxServer(path, Request, Actor().handle)
        await server.start()
        client.start()
        assert await wait_connected(client, LIMIT_S)
        await client.close()
        await server.close()

    asyncio.run(use())
