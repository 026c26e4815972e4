"""One real acceptor process on a port of its own, with the test as its registry's disk and its supervisor."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from actors.acceptor import AcceptorSettings, run_acceptor
from symphony.config.model import Upstream
from symphony.observe.counters import ACTIVE, CounterPage
from symphony.observe.reasons import Reason
from symphony.routing.snapshot import (
    ClientAuthority,
    Identity,
    ListenerEntry,
    RouteEntry,
    Snapshot,
    TlsPolicy,
)
from symphony.routing.snapshot_store import SnapshotStore, StoredSnapshot
from symphony.tls.certificate_maker import make_certificate
from symphony.tls.context import BaseContext
from tests.support.actor_process import ActorProcess, Stage

LISTENER = "127.0.0.1:0"
LIMIT_S = 20.0

_made = make_certificate(["localhost", "*.example.test"])
IDENTITY = Identity(_made.chain_pem, _made.key_pem)


def wait_until(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait for `condition`, and fail with `what` when it does not come true within `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(0.01)


def route(
    sni: str, *upstreams: Upstream, terminate: bool = True, rate: float = 0.0, burst: float = 0.0
) -> RouteEntry:
    """A route on the one listener, with policy 0 when it terminates."""
    return RouteEntry(sni, upstreams, terminate, (0,) if terminate else (), rate, burst)


def snapshot(
    *routes: RouteEntry,
    version: int = 1,
    idle_timeout_ms: int = 30_000,
    handshake_timeout_ms: int = 10_000,
    max_connections: int = 0,
    http2: bool = False,
    identity: Identity = IDENTITY,
    client_authority: ClientAuthority | None = None,
    buffer_size: int = 65536,
) -> Snapshot:
    """A snapshot with one listener and one TLS policy."""
    listener = ListenerEntry(LISTENER, "127.0.0.1", 0, max_connections, idle_timeout_ms, handshake_timeout_ms)
    digest = f"{hash(identity.chain_pem):x}"
    authorities = {"authority": client_authority} if client_authority else {}
    policy = TlsPolicy(digest, "authority" if client_authority else "", http2)
    return Snapshot(
        version, buffer_size, 30_000, (listener,), tuple(routes), (policy,), {digest: identity}, authorities
    )


def listening_socket(port: int = 0) -> socket.socket:
    """A listening socket as the supervisor binds them."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(512)
    sock.setblocking(False)
    return sock


class AcceptorRig:
    """`acceptors` real acceptors of which each is started on its own; number 0 is running."""

    def __init__(self, stage: Stage, first: Snapshot, acceptors: int = 1) -> None:
        self._stage = stage
        self.runtime_dir = stage.runtime_dir
        self.store = SnapshotStore(stage.runtime_dir)
        self.store.save(StoredSnapshot("/nowhere/symphony.toml", first))
        self.base = BaseContext()
        self.sockets = [listening_socket()]
        self.port: int = self.sockets[0].getsockname()[1]
        self.sockets += [listening_socket(self.port) for _ in range(acceptors - 1)]
        self.pages = [CounterPage([LISTENER]) for _ in range(acceptors)]
        self.names = tuple(f"acceptor-{index}" for index in range(acceptors))

    def start(self, index: int = 0, *, ready: bool = True) -> ActorProcess:
        """Start acceptor `index` and wait until it serves."""
        settings = AcceptorSettings(
            runtime_dir=self.runtime_dir,
            index=index,
            names=self.names,
            sockets={LISTENER: self.sockets},
            addresses={LISTENER: f"127.0.0.1:{self.port}"},
            base=self.base,
            pages=self.pages,
        )
        return self._stage.start(self.names[index], run_acceptor, settings, ready=ready)

    def count(self, reason: Reason) -> int:
        """How often connections ended for `reason`."""
        return sum(page.errors().get(reason.value, 0) for page in self.pages)

    @property
    def active(self) -> int:
        """How many connections are open."""
        return sum(page.values[ACTIVE] for page in self.pages)

    def close(self) -> None:
        """Close the listening sockets."""
        for sock in self.sockets:
            sock.close()


@contextmanager
def running(stage: Stage, first: Snapshot) -> Iterator[tuple[AcceptorRig, ActorProcess]]:
    """One acceptor that serves `first`."""
    rig = AcceptorRig(stage, first)
    try:
        yield rig, rig.start()
    finally:
        rig.close()


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kib(pid: int) -> int:
    """How much memory a process has to itself, in KiB."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(
            int(line.split()[1]) for line in file if line.startswith(("Private_Clean", "Private_Dirty"))
        )
