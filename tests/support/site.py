"""An acceptor with an upstream, and what is asserted about every connection that ends badly there."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from symphony.observe.reasons import Reason
from tests.support.acceptor import AcceptorRig, complaints, descriptors, wait_until
from tests.support.actor_process import ActorProcess
from tests.support.peers import Peer, PlainPeer, TlsPeer, UpstreamHost, receive_exactly
from tests.support.tls_client import connect


def ended_by_reset(sock: socket.socket) -> bool:
    """Whether the acceptor has reset the connection, and not closed it in order."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


class Site:
    """An acceptor with an upstream, and one connection in good order through it."""

    def __init__(self, rig: AcceptorRig, process: ActorProcess, upstream: UpstreamHost) -> None:
        self.rig = rig
        self.process = process
        self.upstream = upstream
        self.port = rig.port

    def open(self, name: str = "localhost") -> tuple[TlsPeer, PlainPeer]:
        """A client that is connected through to the upstream."""
        sock = connect(self.port)
        sock.settimeout(None)
        client = TlsPeer(sock, name)
        return client, self.upstream.accept()

    @contextmanager
    def neighbour(self) -> Iterator[None]:
        """Bytes go through one connection before and after the block."""
        client, server = self.open()
        try:
            exchange(client, server)
            yield
            exchange(client, server)
        finally:
            client.sock.close()
            server.sock.close()

    @contextmanager
    def ends_as(self, reason: Reason, times: int = 1) -> Iterator[None]:
        """The block makes `times` connections end, all of them for `reason`."""
        with self.neighbour():
            open_before = descriptors(self.process.pid)
            expected = dict(self.rig.failures)
            expected[reason.value] = expected.get(reason.value, 0) + times
            yield
            wait_until(lambda: sum(self.rig.failures.values()) >= sum(expected.values()), "all have failed")
            wait_until(lambda: self.rig.active == 1, "all are over")
            assert self.rig.failures == expected
            wait_until(
                lambda: descriptors(self.process.pid) <= open_before,
                f"{open_before} descriptors, as before, not {descriptors(self.process.pid)}",
            )
        assert complaints(self.process) == []
        wait_until(lambda: self.rig.active == 0, "the neighbour is over")


def exchange(client: Peer, server: Peer) -> None:
    """Send something each way and see it arrive."""
    question, answer = os.urandom(200), os.urandom(300)
    client.send(question)
    assert receive_exactly(server, len(question)) == question
    server.send(answer)
    assert receive_exactly(client, len(answer)) == answer
