"""One real acceptor: spoken to over its mailbox, fed by a test in the place of the registry and the sampler."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

import actors.snapshot_feed
from symphony.config.model import UdsUpstream
from symphony.config.snapshot import Snapshot
from symphony.mailbox.client import ask
from symphony.mailbox.server import MailboxServer, Sender
from symphony.messages.acceptor import (
    AcceptorDescription,
    AcceptorReply,
    DescribeAcceptor,
    ListenerTotals,
)
from symphony.messages.sampler import CpuReport, SamplerReply, SamplerRequest
from tests.support.acceptor import (
    LISTENER,
    AcceptorRig,
    Tls,
    complaints,
    route,
    snapshot,
    wait_until,
)
from tests.support.actor_process import Stage
from tests.support.peers import UpstreamHost
from tests.support.registry_stand_in import ready, registry, until
from tests.support.site import Site, ended_by_reset, exchange
from tests.support.tls_client import SteppedClient, connect

LIMIT_S = 20.0


@pytest.fixture
def upstreams() -> Iterator[list[UpstreamHost]]:
    hosts = [UpstreamHost("uds") for _ in range(3)]
    yield hosts
    for host in hosts:
        host.close()


def target(host: UpstreamHost, pid: int | None = None) -> UdsUpstream:
    return UdsUpstream(path=host.path, pid=pid, tid=pid)


@asynccontextmanager
async def rig_of(stage: Stage, first: Snapshot | None, acceptors: int = 1) -> AsyncIterator[AcceptorRig]:
    rig = AcceptorRig(stage, first, acceptors)
    try:
        yield rig
    finally:
        rig.close()


async def describe(stage: Stage, name: str = "acceptor-0") -> AcceptorDescription:
    reply = await ask(stage.mailbox(name), DescribeAcceptor(), AcceptorReply, LIMIT_S)
    assert isinstance(reply, AcceptorDescription)
    return reply


def taken_by(port: int, name: str, hosts: list[UpstreamHost]) -> int:
    """Make one connection and end it; return which of `hosts` it went to."""
    with connect(port) as sock:
        client = SteppedClient(name)
        client.finish(sock)
        deadline = time.monotonic() + LIMIT_S
        while True:
            for at, host in enumerate(hosts):
                host.listening.setblocking(False)
                try:
                    server, _ = host.listening.accept()
                except BlockingIOError:
                    continue
                finally:
                    host.listening.setblocking(True)
                server.close()
                assert client.receive(sock) == b""
                return at
            assert time.monotonic() < deadline, "no upstream got the connection"
            time.sleep(0.001)


# The mailbox


async def test_description(stage: Stage, upstreams: list[UpstreamHost]) -> None:
    routes = snapshot(
        route("localhost", target(upstreams[0])),
        route("other.test", target(upstreams[1]), policy=1),
        route("pass.test", target(upstreams[1]), terminate=False),
        version=7,
        more=[Tls(http2=True)],
    )
    async with rig_of(stage, routes) as rig:
        process = rig.start()
        address = f"127.0.0.1:{rig.port}"
        first = await describe(stage)
        assert 5 < first.descriptors < first.descriptor_limit
        assert first == AcceptorDescription(
            "acceptor-0",
            7,
            3,
            2,
            (ListenerTotals(LISTENER, address, 0, 0),),
            0,
            0,
            0,
            0,
            {},
            (),
            descriptors=first.descriptors,
            descriptor_limit=first.descriptor_limit,
        )
        client, server = Site(rig, process, upstreams[0]).open()
        exchange(client, server)  # 200 bytes up, 300 down
        busy = await describe(stage)
        assert (busy.accepted, busy.active) == (1, 1)
        assert busy.listeners == (ListenerTotals(LISTENER, address, 1, 1),)
        server.sock.close()
        assert client.receive() == b""
        client.sock.close()
        with connect(rig.port) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert ended_by_reset(sock)
        wait_until(lambda: rig.active == 0, "all are over")
        last = await describe(stage)
        assert last.listeners == (ListenerTotals(LISTENER, address, 2, 0),)
        assert (last.accepted, last.active, last.bytes_up, last.bytes_down) == (2, 0, 200, 300)
        assert last.errors == {"not_tls": 1}


async def test_garbage_in_the_mailbox_is_nobody_elses_trouble(
    stage: Stage, upstreams: list[UpstreamHost]
) -> None:
    async with rig_of(stage, snapshot(route("localhost", target(upstreams[0])))) as rig:
        process = rig.start()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(LIMIT_S)
            sock.connect(stage.mailbox("acceptor-0"))
            sock.sendall(b"\x00\x00\x00\x05hello")
            assert sock.recv(100) == b""
        assert (await describe(stage)).version == 1
        assert taken_by(rig.port, "localhost", upstreams) == 0
        assert complaints(process) == []


# Snapshots


async def test_new_snapshot_is_served_and_acknowledged(stage: Stage, upstreams: list[UpstreamHost]) -> None:
    first = snapshot(route("localhost", target(upstreams[0])), version=3)
    async with registry(stage, first) as stand_in, rig_of(stage, None) as rig:
        process = rig.start(ready=False)
        await ready(process)
        assert stand_in.subscriptions == [("acceptor-0", 0)]
        await until(lambda: stand_in.applied == [("acceptor-0", 3)], "the first one is acknowledged")
        client, server = Site(rig, process, upstreams[0]).open()
        await stand_in.publish_and_wait(
            snapshot(
                route("localhost", target(upstreams[1])),
                route("new.test", target(upstreams[2])),
                version=4,
                buffer_size=131072,
            )
        )
        exchange(client, server)  # begun under the old one, and not touched
        assert taken_by(rig.port, "localhost", upstreams) == 1
        assert taken_by(rig.port, "new.test", upstreams) == 2
        found = await describe(stage)
        assert (found.version, found.routes, found.contexts) == (4, 2, 1)
        exchange(client, server)
        client.sock.close()
        server.sock.close()
        assert complaints(process) == []


async def test_swap_is_one_step_for_all_routes(stage: Stage, upstreams: list[UpstreamHost]) -> None:
    """Connections to the first and the last of many routes by turns: once one is new, none is old any more."""
    names = [f"r{number}.test" for number in range(2000)]

    def generation(version: int) -> Snapshot:
        host = upstreams[version - 1]
        return snapshot(*(route(name, target(host), terminate=False) for name in names), version=version)

    async with registry(stage, generation(1)) as stand_in, rig_of(stage, None) as rig:
        process = rig.start(ready=False)
        await ready(process)
        seen: list[int] = []
        published = False
        while seen[-6:] != [1] * 6:
            name = names[0] if len(seen) % 2 else names[-1]
            with connect(rig.port) as sock:
                sock.sendall(SteppedClient(name).hello())
                which = await first_taken(upstreams)
                seen.append(which)
            await asyncio.sleep(0)
            if len(seen) == 10 and not published:
                published = True
                stand_in.publish(generation(2))
            assert len(seen) < 2000
        assert seen == sorted(seen)
        wait_until(lambda: rig.active == 0, "all are over")
        await until(lambda: ("acceptor-0", 2) in stand_in.applied, "it is acknowledged")


async def first_taken(hosts: list[UpstreamHost]) -> int:
    """Which of `hosts` gets the next connection; it is closed."""
    found = []

    def look() -> bool:
        for at, host in enumerate(hosts):
            host.listening.setblocking(False)
            try:
                server, _ = host.listening.accept()
            except BlockingIOError:
                continue
            server.close()
            found.append(at)
        return bool(found)

    await until(look, "an upstream gets the connection")
    return found[0]


async def test_only_the_newest_of_many_snapshots_counts(stage: Stage, upstreams: list[UpstreamHost]) -> None:
    """Those that arrive while one is being built are passed over, and the last one always is served."""
    large = [route(f"r{number}.test", target(upstreams[0]), terminate=False) for number in range(3000)]
    async with (
        registry(stage, snapshot(route("localhost", target(upstreams[0])))) as stand_in,
        rig_of(stage, None) as rig,
    ):
        await ready(rig.start(ready=False))
        for version in range(2, 8):
            stand_in.publish(snapshot(route("localhost", target(upstreams[1])), *large, version=version))
            await asyncio.sleep(0.01)  # lets some of them arrive while an earlier one is being built
        await stand_in.publish_and_wait(snapshot(route("localhost", target(upstreams[2])), version=8))
        versions = [version for _, version in stand_in.applied]
        assert versions == sorted(set(versions)) and versions[-1] == 8
        assert taken_by(rig.port, "localhost", upstreams) == 2
        assert (await describe(stage)).routes == 1


async def test_registry_that_goes_and_comes_back(stage: Stage, upstreams: list[UpstreamHost]) -> None:
    first = snapshot(route("localhost", target(upstreams[0])), version=3)
    async with rig_of(stage, None) as rig:
        async with registry(stage, first):
            process = rig.start(ready=False)
            await ready(process)
        assert taken_by(rig.port, "localhost", upstreams) == 0
        second = snapshot(route("localhost", target(upstreams[1])), version=4)
        async with registry(stage, second) as stand_in:
            await until(lambda: ("acceptor-0", 4) in stand_in.applied, "the new one is acknowledged")
            assert stand_in.subscriptions == [("acceptor-0", 3)]
            assert stand_in.applied[0] == (
                "acceptor-0",
                3,
            )  # what it serves, as soon as there is somebody to tell
        assert taken_by(rig.port, "localhost", upstreams) == 1
        assert complaints(process) == []


async def test_snapshot_on_disk_serves_until_the_registry_answers(
    stage: Stage, upstreams: list[UpstreamHost]
) -> None:
    async with rig_of(stage, snapshot(route("localhost", target(upstreams[0])), version=5)) as rig:
        process = rig.start()
        assert '"registry_silent"' in process.log()
        assert (await describe(stage)).version == 5
        assert taken_by(rig.port, "localhost", upstreams) == 0
        async with registry(stage, snapshot(route("localhost", target(upstreams[1])), version=6)) as stand_in:
            await until(lambda: ("acceptor-0", 6) in stand_in.applied, "the new one is acknowledged")
        assert taken_by(rig.port, "localhost", upstreams) == 1


def test_neither_registry_nor_disk(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors.snapshot_feed, "FIRST_SNAPSHOT_WITHIN_S", 0.3)
    rig = AcceptorRig(stage, None)
    try:
        process = rig.start(ready=False)
        assert process.wait_failed() == "no snapshot from the route registry, and none on disk"
        assert process.wait_exit() == 1
        assert "Traceback" not in process.log()
    finally:
        rig.close()


def test_unusable_snapshot_on_disk(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors.snapshot_feed, "FIRST_SNAPSHOT_WITHIN_S", 0.3)
    rig = AcceptorRig(stage, None)
    try:
        with open(rig.store.path, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(b"not a snapshot")
        process = rig.start(ready=False)
        assert "none on disk" in process.wait_failed()
        assert "not a snapshot" in process.log() and "Traceback" not in process.log()
        assert process.wait_exit() == 1
    finally:
        rig.close()


# Balancing


class SamplerStandIn:
    """Reports what the test tells it to."""

    def __init__(self, stage: Stage) -> None:
        self.subscribers: list[Sender] = []
        self.mailbox = MailboxServer(stage.mailbox("cpu-sampler"), SamplerRequest, self._answer)

    def _answer(self, message: SamplerRequest, sender: Sender) -> SamplerReply | None:
        self.subscribers.append(sender)
        return None

    def report(self, *samples: tuple[int, int, int]) -> None:
        for sender in self.subscribers:
            sender.push(CpuReport(samples))


async def test_load_steers_the_choice_of_an_upstream(stage: Stage, upstreams: list[UpstreamHost]) -> None:
    """Equal loads take turns, a busy thread is avoided, and one connection weighs more than any CPU use."""
    targets = [target(host, 1000 + at) for at, host in enumerate(upstreams[:2])]
    sampler = SamplerStandIn(stage)
    await sampler.mailbox.start()
    try:
        async with rig_of(stage, snapshot(route("localhost", *targets))) as rig:
            await ready(rig.start(ready=False))
            await until(lambda: sampler.subscribers, "it has subscribed")
            turns = [taken_by(rig.port, "localhost", upstreams) for _ in range(6)]
            assert turns in ([0, 1] * 3, [1, 0] * 3)

            for busy, idle in ((0, 1), (1, 0)):
                sampler.report((1000 + busy, 1000 + busy, 900), (1000 + idle, 1000 + idle, 10))
                await until(
                    lambda idle=idle: (
                        [taken_by(rig.port, "localhost", upstreams) for _ in range(2)] == [idle] * 2
                    ),  # type: ignore[misc]
                    "the report has arrived",
                )
                assert [taken_by(rig.port, "localhost", upstreams) for _ in range(6)] == [idle] * 6

            with connect(rig.port) as sock:  # goes to the idle one, number 0, and stays
                SteppedClient("localhost").finish(sock)
                server = upstreams[0].accept()
                assert [taken_by(rig.port, "localhost", upstreams) for _ in range(4)] == [1] * 4
                server.sock.close()
            await until(lambda: rig.active == 0, "it is over")
            assert taken_by(rig.port, "localhost", upstreams) == 0

            sampler.report()  # threads that are gone count as idle
            await until(
                lambda: (
                    taken_by(rig.port, "localhost", upstreams) != taken_by(rig.port, "localhost", upstreams)
                ),
                "they take turns again",
            )
    finally:
        await sampler.mailbox.close()
