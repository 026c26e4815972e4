"""The bound on what waits to be sent, on a real socket whose other end reads when told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from symphony.mailbox.framing import FrameDecoder
from symphony.mailbox.outbox import Outbox
from tests.support.loops import eventually, on_both_loops
from tests.support.mailbox import Echo, RawPeer

LIMIT = 1 << 16


class Wire(asyncio.Protocol):
    transport: asyncio.Transport
    outbox: Outbox

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.outbox = Outbox(asyncio.get_running_loop(), self.transport, LIMIT)

    def pause_writing(self) -> None:
        self.outbox.full = True

    def resume_writing(self) -> None:
        self.outbox.full = False


@asynccontextmanager
async def wire() -> AsyncIterator[tuple[Wire, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours:
        theirs.setblocking(False)
        # What the kernel takes at once must be less than the limit, or the backlog goes from full to empty.
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LIMIT // 8)
        _, protocol = await asyncio.get_running_loop().create_unix_connection(Wire, sock=theirs)
        try:
            yield protocol, ours
        finally:
            protocol.transport.abort()
            await asyncio.sleep(0.01)


@on_both_loops
async def test_the_messages_of_one_turn_arrive_together_and_in_order() -> None:
    async with wire() as (protocol, ours):
        for number in range(100):
            assert protocol.outbox.post(number, 0.0, Echo(str(number)))
        await asyncio.sleep(0.01)
        data = ours.recv(1 << 20)
        assert data == b"".join(RawPeer.frame(Echo(str(number)), id=number) for number in range(100))


@on_both_loops
async def test_full_means_above_the_limit_now() -> None:
    async with wire() as (protocol, ours):
        outbox, transport = protocol.outbox, protocol.transport
        posted = 0
        while outbox.post(1, 0.0, Echo("x" * 8192)):
            posted += 1
            assert posted < 1000, "the backlog has no bound"
            await asyncio.sleep(0)
        assert transport.get_write_buffer_size() > LIMIT
        frames = FrameDecoder(1 << 20)
        received = 0

        def read_some() -> bool:
            nonlocal received
            try:
                received += len(frames.feed(ours.recv(4096)))
            except BlockingIOError:
                pass
            return transport.get_write_buffer_size() <= LIMIT

        await eventually(read_some, "the backlog to come down to the limit")
        assert transport.get_write_buffer_size() > 0, "read everything: this shows nothing"
        assert outbox.post(1, 0.0, Echo("room again"))
        await eventually(lambda: read_some() and received == posted + 1, "all that was taken")


@on_both_loops
async def test_one_message_larger_than_the_limit_is_taken() -> None:
    async with wire() as (protocol, ours):
        assert protocol.outbox.post(1, 0.0, Echo("x" * (10 * LIMIT)))
        await asyncio.sleep(0)
        assert not protocol.outbox.post(1, 0.0, Echo("one too many"))
        frames = FrameDecoder(1 << 20)
        got: list[bytes] = []

        def read_some() -> bool:
            try:
                got.extend(frames.feed(ours.recv(1 << 16)))
            except BlockingIOError:
                pass
            return len(got) == 1

        await eventually(read_some, "the message")
