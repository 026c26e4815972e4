"""One real acceptor process on a port of its own, with the test as its registry's disk and its supervisor."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from actors.acceptor import AcceptorSettings, run_acceptor
from symphony.config.model import Upstream
from symphony.config.snapshot import (
    ClientAuthority,
    Identity,
    ListenerEntry,
    ProtectionEntry,
    RouteEntry,
    Snapshot,
    TlsPolicy,
)
from symphony.observe.counters import ACTIVE, CounterPage
from symphony.observe.reasons import Reason
from symphony.protection.cidr import CidrSet
from symphony.protection.source_store import SourceStore
from symphony.routing.snapshot_store import SnapshotStore, StoredSnapshot
from symphony.tls.certificate_maker import make_certificate
from symphony.tls.context import BaseContext
from tests.support.actor_process import ActorProcess, Stage

LISTENER = "127.0.0.1:0"
LIMIT_S = 20.0
UNPROTECTED = ProtectionEntry()

_made = make_certificate(["localhost", "*.example.test"])
IDENTITY = Identity(_made.chain_pem, _made.key_pem)


def wait_until(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait for `condition`, and fail with `what` when it does not come true within `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(0.01)


def settled(count: Callable[[], int], looks: int = 50, limit_s: float = LIMIT_S) -> int:
    """What `count` is at last: the same, and never less, in so many `looks` one after the other, 10 ms apart."""
    least, same = count(), 0
    deadline = time.monotonic() + limit_s
    while same < looks:
        assert time.monotonic() < deadline, f"not settled within {limit_s:g} s: {least} at least"
        time.sleep(0.01)
        now = count()
        same = same + 1 if now == least else 0
        least = min(least, now)
    return least


class Tls(NamedTuple):
    """What makes a TLS policy; without an identity, one that only a suspended route may have."""

    identity: Identity | None = IDENTITY
    authority: ClientAuthority | None = None
    http2: bool = False


def route(
    sni: str,
    *upstreams: Upstream,
    terminate: bool = True,
    policy: int = 0,
    rate: float = 0.0,
    burst: float = 0.0,
    suspend_ms: int = 0,
) -> RouteEntry:
    """A route on the one listener; `policy` is its TLS policy when it terminates, -1 for no certificate.

    With `suspend_ms` it is suspended, and has the policy in either case.
    """
    policies = (policy,) if terminate or suspend_ms else ()
    return RouteEntry(sni, upstreams, terminate, policies, rate, burst, suspend_timeout_ms=suspend_ms)


def snapshot(
    *routes: RouteEntry,
    version: int = 1,
    idle_timeout_ms: int = 30_000,
    half_close_timeout_ms: int = 60_000,
    handshake_timeout_ms: int = 10_000,
    max_connections: int = 0,
    http2: bool = False,
    identity: Identity = IDENTITY,
    client_authority: ClientAuthority | None = None,
    buffer_size: int = 65536,
    more: Sequence[Tls] = (),
    protection: ProtectionEntry = UNPROTECTED,
    allowlist: Sequence[str] = (),
    blocklist: Sequence[str] = (),
    mode: str = "tls",
    redirect_port: int = 443,
) -> Snapshot:
    """A snapshot with one listener. `identity`, `client_authority` and `http2` make policy 0, `more` those from 1.

    `allowlist` and `blocklist` go into `protection`.
    """
    networks = {}
    for name, entries in (("allowlist", allowlist), ("blocklist", blocklist)):
        if entries:
            networks[name] = CidrSet(entries).to_bytes()
            protection = msgspec.structs.replace(protection, **{name: name})
    listener = ListenerEntry(
        LISTENER,
        "127.0.0.1",
        0,
        max_connections,
        idle_timeout_ms,
        handshake_timeout_ms,
        half_close_timeout_ms=half_close_timeout_ms,
        protection=protection,
        mode=mode,
        redirect_port=redirect_port,
    )
    policies: list[TlsPolicy] = []
    identities: dict[str, Identity] = {}
    authorities: dict[str, ClientAuthority] = {}
    for tls in (Tls(identity, client_authority, http2), *more):
        digest = ""
        if tls.identity is not None:
            digest = _digest(tls.identity.chain_pem)
            identities[digest] = tls.identity
        authority = ""
        if tls.authority is not None:
            authority = _digest(tls.authority.ca_pem, b"required" if tls.authority.required else b"optional")
            authorities[authority] = tls.authority
        policies.append(TlsPolicy(digest, authority, tls.http2))
    return Snapshot(
        version,
        buffer_size,
        30_000,
        (listener,),
        tuple(routes),
        tuple(policies),
        identities,
        authorities,
        networks=networks,
    )


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


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
    """`acceptors` real acceptors of which each is started on its own; `first` is the snapshot on disk, if any.

    `sources` is what they know of sources.
    """

    def __init__(
        self, stage: Stage, first: Snapshot | None, acceptors: int = 1, sources: SourceStore | None = None
    ) -> None:
        self._stage = stage
        self.runtime_dir = stage.runtime_dir
        self.store = SnapshotStore(stage.runtime_dir)
        if first is not None:
            self.store.save(StoredSnapshot("/nowhere/symphony.toml", first))
        self.base = BaseContext()
        self.sources = sources or SourceStore(10_000)
        self.sockets = [listening_socket()]
        self.port: int = self.sockets[0].getsockname()[1]
        self.sockets += [listening_socket(self.port) for _ in range(acceptors - 1)]
        self.pages = [CounterPage([LISTENER]) for _ in range(acceptors)]
        self.names = tuple(f"acceptor-{index}" for index in range(acceptors))

    def start(self, index: int = 0, *, ready: bool = True, **changes: Any) -> ActorProcess:
        """Start acceptor `index`, with `changes` to its settings, and wait until it serves."""
        settings = self.settings(index, **changes)
        return self._stage.start(settings.names[index], run_acceptor, settings, ready=ready)

    def settings(self, index: int, **changes: Any) -> AcceptorSettings:
        """What acceptor `index` is given."""
        settings = AcceptorSettings(
            runtime_dir=self.runtime_dir,
            index=index,
            names=self.names,
            sockets={LISTENER: self.sockets},
            addresses={LISTENER: f"127.0.0.1:{self.port}"},
            base=self.base,
            pages=self.pages,
            sources=self.sources,
        )
        return replace(settings, **changes)

    def count(self, reason: Reason) -> int:
        """How often connections ended for `reason`."""
        return sum(page.errors().get(reason.value, 0) for page in self.pages)

    def total(self, slot: int) -> int:
        """A total of :mod:`symphony.observe.counters` over all acceptors."""
        return sum(page.values[slot] for page in self.pages)

    @property
    def failures(self) -> dict[str, int]:
        """How many connections each reason ended, over all acceptors."""
        found: dict[str, int] = {}
        for page in self.pages:
            for reason, times in page.errors().items():
                found[reason] = found.get(reason, 0) + times
        return found

    @property
    def active(self) -> int:
        """How many connections are open."""
        return self.total(ACTIVE)

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


def rss_kib(pid: int) -> int:
    """How much memory a process has in all, in KiB.

    What it shares with the test that forked it is in there, and stays, whatever the test does with its own copy.
    """
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


def cpu_seconds(pid: int) -> float:
    """How much CPU time a process has used, in user mode and in the kernel (proc_pid_stat(5))."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def complaints(process: ActorProcess) -> list[str]:
    """The lines of a process' log that are no lines, are at level error or carry a traceback."""
    found = []
    for line in process.log().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            found.append(line)
            continue
        if entry["level"] == "error" or "exception" in entry or "Traceback" in line:
            found.append(line)
    return found
