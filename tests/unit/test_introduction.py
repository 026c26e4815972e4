"""A header on its way to an upstream: in one piece, in many, to one that does not read, and to one that has gone."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

from symphony.config.model import UdsUpstream
from symphony.connection.introduction import Introduction
from symphony.connection.state import ServingState
from symphony.observe.reasons import Reason
from symphony.relay.host import RelayHost
from symphony.routing.pool import UpstreamPool
from tests.support.loops import descriptors, eventually


class _State:
    """What an introduction uses of the serving state."""

    def __init__(self, host: RelayHost) -> None:
        self.host = host


class Sending:
    """One introduction to an upstream whose socket takes little at a time, and what comes of it."""

    def __init__(self, header: bytes, connect_timeout_ms: int = 5000) -> None:
        self.outcomes: list[Any] = []
        self.errors: list[BaseException] = []
        self.host = RelayHost(asyncio.get_running_loop(), 65536, self.errors.append)
        self.slot = UpstreamPool().slot(UdsUpstream(path="/up", connect_timeout_ms=connect_timeout_ms))
        self.slot.record.begin()
        self.ours, self.theirs = socket.socketpair()
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        state: Any = _State(self.host)
        assert set(vars(state)) <= set(ServingState.__slots__)
        self.introduction = Introduction(
            state,
            self.ours,
            self.slot,
            lambda sock, slot: self.outcomes.append((sock, slot)),
            lambda reason, detail: self.outcomes.append((reason, detail)),
        )
        self.header = header

    def send(self) -> None:
        self.introduction.send(self.header)

    async def received(self) -> bytes:
        got = b""

        def read() -> bool:
            nonlocal got
            try:
                got += self.theirs.recv(700)
            except BlockingIOError:
                pass
            return len(got) >= len(self.header)

        await eventually(read, "the header has come")
        return got

    def close(self) -> None:
        assert self.errors == []
        assert len(self.outcomes) <= 1
        assert len(self.host.wheel) == 0
        self.theirs.close()
        self.ours.close()
        self.host.close()


async def test_a_header_that_fits_is_sent_at_once() -> None:
    sending = Sending(b"PROXY UNKNOWN\r\n")
    sending.send()
    assert sending.outcomes == [(sending.ours, sending.slot)]
    assert sending.theirs.recv(100) == sending.header
    assert sending.slot.active == 1  # goes with the socket to whoever takes it
    sending.close()


async def test_a_header_that_does_not_fit_is_sent_bit_by_bit() -> None:
    sending = Sending(os.urandom(60_000))
    sending.send()
    assert sending.outcomes == []
    assert await sending.received() == sending.header
    await eventually(lambda: sending.outcomes, "it is over")
    assert sending.outcomes == [(sending.ours, sending.slot)]
    assert sending.slot.active == 1
    sending.close()


async def test_an_upstream_that_does_not_read() -> None:
    sending = Sending(os.urandom(60_000), connect_timeout_ms=100)
    sending.send()
    await eventually(lambda: sending.outcomes, "it is given up", 5)
    reason, detail = sending.outcomes[0]
    assert reason is Reason.UPSTREAM_TIMEOUT
    assert detail.startswith("unix:/up: ") and "not taken" in detail
    assert (sending.slot.active, sending.ours.fileno()) == (0, -1)
    sending.close()


@pytest.mark.parametrize("size", [10, 60_000])
async def test_an_upstream_that_has_gone(size: int) -> None:
    sending = Sending(os.urandom(size))
    if size == 10:
        sending.theirs.close()
        sending.send()
    else:
        sending.send()
        assert sending.outcomes == []
        sending.theirs.close()
        await eventually(lambda: sending.outcomes, "it is given up")
    reason, detail = sending.outcomes[0]
    assert reason is Reason.UPSTREAM_RESET
    assert detail.startswith("unix:/up: ")
    assert (sending.slot.active, sending.ours.fileno()) == (0, -1)
    sending.close()


async def test_a_client_that_leaves_meanwhile() -> None:
    before = descriptors()
    sending = Sending(os.urandom(60_000))
    sending.send()
    sending.introduction.cancel()
    assert (sending.outcomes, sending.slot.active, sending.ours.fileno()) == ([], 0, -1)
    sending.introduction.cancel()
    assert sending.slot.active == 0
    sending.close()
    assert descriptors() == before


async def test_a_handler_that_fails() -> None:
    """The poller ends whoever's handler has raised by this; it would be called again and again otherwise."""
    sending = Sending(os.urandom(60_000))
    sending.send()
    sending.introduction.abort(Reason.INTERNAL_ERROR)
    assert sending.outcomes[0][0] is Reason.INTERNAL_ERROR
    assert (sending.slot.active, sending.ours.fileno()) == (0, -1)
    sending.close()
