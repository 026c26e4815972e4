"""A mailbox and senders that break the rules; and that nothing of any connection is left behind."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from symphony.mailbox.client import MailboxClient, MailboxDown, ask
from symphony.mailbox.framing import encode_frame
from tests.support.forked import exit_code
from tests.support.loops import LIMIT_S, descriptors, eventually, on_both_loops
from tests.support.mailbox import (
    Big,
    Echo,
    Echoed,
    RawPeer,
    Reply,
    Wait,
    connected,
    raw_peer,
    serving,
    socket_path,
)

NOBODY = 65534
MAX_FRAME = 4096
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def path() -> Iterator[str]:
    with socket_path() as path:
        yield path


def as_nobody(action: Callable[[], int]) -> int:
    """Fork a child that runs `action` as another user and exits with its result; return the child's pid."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            code = action()
        finally:
            os._exit(code)
    return pid


GARBAGE = {
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "zero length": bytes(4),
    "oversize": struct.pack(">I", MAX_FRAME + 1),
    "oversize with payload": encode_frame(b"x" * (MAX_FRAME + 1)),
    "not msgpack": encode_frame(b"\xc1\xc1\xc1"),
    "not an envelope": encode_frame(msgspec.msgpack.encode("hello")),
    "another version": RawPeer.frame(Echo("x"), version=2),
    "unknown message": encode_frame(msgspec.msgpack.encode((1, 1, 0.0, ("Unknown", 1)))),
    "a reply": RawPeer.frame(Echoed("x")),
    "wrong field": encode_frame(msgspec.msgpack.encode((1, 1, 0.0, ("Echo", 5)))),
    "not UTF-8": encode_frame(b"\x94\x01\x01\xcb" + bytes(8) + b"\x92\xa4Echo\xa1\xff"),
    "deeply nested": encode_frame(b"\x94\x01\x01\xcb" + bytes(8) + b"\x91" * 4000),
    "a good one before": RawPeer.frame(Echo("x")) + encode_frame(b"\xc1"),
    "a good one after": encode_frame(b"\xc1") + RawPeer.frame(Echo("x")),
}


@on_both_loops
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_costs_its_sender_the_connection_and_nobody_else(
    path: str, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(path, max_frame=MAX_FRAME) as (server, _), connected(path) as other:
        assert await other.call(Echo("before")) == Echoed("before")
        async with raw_peer(path) as peer:
            peer.writer.write(garbage)
            while await peer.receive() is not None:
                pass
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert f"process {os.getpid()} cut off: " in record.getMessage()
        assert record.exc_info is None
        assert await other.call(Echo("after")) == Echoed("after")
        assert len(server.connections) == 1
        assert server.depth == 0


@on_both_loops
async def test_what_follows_garbage_is_not_worked_on(path: str) -> None:
    async with serving(path) as (_, actor), raw_peer(path) as peer:
        peer.writer.write(GARBAGE["a good one after"])
        assert await peer.receive() is None
        assert actor.seen == []


@on_both_loops
async def test_half_a_frame_and_then_nothing(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(path) as (server, actor):
        for cut in (1, 4, 10):
            async with raw_peer(path) as peer:
                peer.writer.write(RawPeer.frame(Echo("never finished"))[:cut])
        await eventually(lambda: not server.connections, "the connections to go")
        assert actor.seen == []
        assert caplog.records == []


@on_both_loops
async def test_a_frame_byte_by_byte(path: str) -> None:
    async with serving(path), raw_peer(path) as peer:
        for byte in RawPeer.frame(Echo("slowly"), id=9):
            peer.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        answer = await peer.receive()
        assert answer is not None
        assert (answer.id, answer.body) == (9, Echoed("slowly"))


@on_both_loops
async def test_a_sender_that_does_not_read_is_dropped(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(path, high_water=1 << 18) as (_, actor), connected(path) as other:
        async with raw_peer(path) as peer:
            peer.writer.transport.pause_reading()
            for number in range(200):
                peer.send(Big(1 << 16), id=number + 1)
            await eventually(lambda: actor.senders and actor.senders[0].closed, "the drop")
            (sender,) = actor.senders
            assert not sender.push(Echoed("too late"))
        assert len(actor.seen) < 200
        (record,) = caplog.records
        assert "does not read" in record.getMessage()
        assert await other.call(Echo("unharmed")) == Echoed("unharmed")


@on_both_loops
async def test_a_subscriber_that_does_not_read_is_dropped(path: str) -> None:
    async with serving(path, high_water=1 << 18) as (_, actor), raw_peer(path) as peer:
        peer.send(Echo("subscribe"))
        assert await peer.receive() is not None
        peer.writer.transport.pause_reading()
        (sender,) = actor.senders
        accepted = 0
        while sender.push(Echoed("x" * (1 << 16))):
            accepted += 1
            assert accepted < 200, "pushes pile up without bound"
            await asyncio.sleep(0)
        assert sender.closed
        assert accepted >= 4


@needs_root
@on_both_loops
async def test_another_user_is_cut_off(path: str, caplog: pytest.LogCaptureFixture) -> None:
    request = RawPeer.frame(Echo("let me in"))

    def knock() -> int:
        for _ in range(5):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(LIMIT_S)
                sock.connect(path)
                try:
                    sock.sendall(request)
                    if sock.recv(100):
                        return 1
                except (BrokenPipeError, ConnectionResetError):
                    pass
        return 0

    async with serving(path) as (server, actor):
        # What the permissions of the directory and the socket keep out is let through here, to reach the last door.
        os.chmod(os.path.dirname(path), 0o755)
        os.chmod(path, 0o666)
        assert await exit_code(as_nobody(knock)) == 0
        assert actor.seen == []
        assert actor.senders == []
        assert [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
        assert len(caplog.records) <= 2, "one line per second"
        assert f"of user {NOBODY} refused" in caplog.text
        await eventually(lambda: not server.connections, "the connections to go")
        assert await ask(path, Echo("ours"), Reply) == Echoed("ours")


@needs_root
@on_both_loops
async def test_the_socket_itself_keeps_another_user_out(path: str) -> None:
    def knock() -> int:
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(path)

    async with serving(path):
        os.chmod(os.path.dirname(path), 0o755)
        assert await exit_code(as_nobody(knock)) == errno.EACCES


@needs_root
@on_both_loops
async def test_a_server_of_another_user_is_not_spoken_to(path: str) -> None:
    os.chmod(os.path.dirname(path), 0o777)

    def impersonate() -> int:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            listener.settimeout(LIMIT_S)
            accepted, _ = listener.accept()
            accepted.settimeout(LIMIT_S)
            return 1 if accepted.recv(100) else 0

    pid = as_nobody(impersonate)
    try:
        await eventually(lambda: os.path.exists(path), "the other server")

        async def asked() -> str:
            with pytest.raises(MailboxDown) as caught:
                await ask(path, Echo("secret"), Reply)
            return str(caught.value)

        text = await asked()
        while "refused" in text:  # bound, but not listening yet
            text = await asked()
        assert f"belongs to user {NOBODY}" in text
    finally:
        assert await exit_code(pid) == 0


async def use_ask(path: str) -> None:
    assert await ask(path, Echo("hello"), Reply) == Echoed("hello")


async def use_client(path: str) -> None:
    async with connected(path) as client:
        assert await client.call(Echo("hello")) == Echoed("hello")


async def close_while_connecting(path: str) -> None:
    client = MailboxClient(path, Reply)
    client.start()
    await asyncio.sleep(0)
    await client.close()


async def cancel_ask(path: str) -> None:
    asking = asyncio.ensure_future(ask(path, Wait("never"), Reply))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def leave_pending(path: str) -> None:
    replies: list[Any] = []
    async with connected(path) as client:
        client.request(Wait("never"), replies.append, LIMIT_S)
    assert replies == [None]


async def connect_and_close(path: str) -> None:
    async with raw_peer(path):
        pass


async def connect_and_send_garbage(path: str) -> None:
    async with raw_peer(path) as peer:
        peer.writer.write(encode_frame(b"\xc1"))
        assert await peer.receive() is None


async def vanish(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        sock.connect(path)
        sock.send(RawPeer.frame(Big(1 << 20)))


async def find_nobody(path: str) -> None:
    with pytest.raises(MailboxDown):
        await ask(path + "x", Echo("hello"), Reply)


WAYS = (
    use_ask,
    use_client,
    close_while_connecting,
    cancel_ask,
    leave_pending,
    connect_and_close,
    connect_and_send_garbage,
    vanish,
    find_nobody,
)


@on_both_loops
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_no_descriptor_is_left(path: str, way: Callable[[str], Any]) -> None:
    async with serving(path) as (server, actor):
        await way(path)
        await eventually(lambda: not server.connections, "the first connection to go")
        baseline = descriptors()
        for _ in range(200):
            await way(path)
        actor.gate.set()
        await eventually(lambda: not server.connections, "the connections to go")
        await eventually(lambda: descriptors() <= baseline, "the descriptors to come back")


@on_both_loops
async def test_servers_leave_no_descriptor(path: str) -> None:
    async with serving(path), connected(path) as client:
        await client.call(Echo("warm"))
    baseline = descriptors()
    for _ in range(50):
        async with serving(path), connected(path) as client:
            await client.call(Echo("hello"))
    await eventually(lambda: descriptors() <= baseline, "the descriptors to come back")
