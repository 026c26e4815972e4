"""Limits: connections of a listener, connections a second of a route, descriptors of the process."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterator

import pytest

from actors.rate_limiter import LimiterSettings, run_rate_limiter
from symphony.config.model import UdsUpstream, Upstream
from symphony.observe.counters import ACCEPTED, ROUTE_DECIDED_ALONE
from symphony.observe.reasons import Reason
from tests.support.acceptor import (
    AcceptorRig,
    complaints,
    cpu_seconds,
    descriptors,
    route,
    running,
    snapshot,
    wait_until,
)
from tests.support.actor_process import Stage
from tests.support.peers import UpstreamHost
from tests.support.site import Site, ended_by_reset, exchange
from tests.support.tls_client import SteppedClient, connect

ATTEMPTS = range(10)
SLOW = 0.001  # connections a second: nothing is refilled while a test runs


def is_turned_away(port: int) -> bool:
    """Whether a connection is reset, be it before ``connect`` has returned."""
    try:
        with connect(port) as sock:
            return ended_by_reset(sock)
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("acceptors", [1, 2])
def test_max_connections_of_a_listener(stage: Stage, upstream: UpstreamHost, acceptors: int) -> None:
    """However many acceptors share it, there are never more; and one that ends makes room."""
    routes = snapshot(route("localhost", UdsUpstream(path=upstream.path)), max_connections=3)
    rig = AcceptorRig(stage, routes, acceptors)
    try:
        processes = [rig.start(index) for index in range(acceptors)]
        site = Site(rig, processes[0], upstream)
        kept = [site.open() for _ in range(3)]
        for _ in range(8):
            assert is_turned_away(rig.port)
        wait_until(lambda: rig.count(Reason.MAX_CONNECTIONS) == 8, "all are counted")
        for client, server in kept:
            exchange(client, server)
        client, server = kept.pop()
        client.sock.close()
        server.sock.close()
        wait_until(lambda: rig.active == 2, "it is over")
        kept.append(site.open())
        for client, server in kept:
            exchange(client, server)
            client.sock.close()
            server.sock.close()
        wait_until(lambda: rig.active == 0, "all are over")
        assert rig.failures == {"max_connections": 8}
        assert [complaints(process) for process in processes] == [[]] * acceptors
    finally:
        rig.close()


def try_route(rig: AcceptorRig, name: str, times: int) -> int:
    """Connect so many times to a passthrough route that answers nothing; return how often it was let in."""
    let_in = 0
    for _ in range(times):
        limited, active = rig.count(Reason.RATE_LIMITED), rig.active
        with connect(rig.port) as sock:
            sock.sendall(SteppedClient(name).hello())
            let_in += not ended_by_reset(sock)
        wait_until(
            lambda before=active: rig.active <= before,  # type: ignore[misc]
            "it is over",
        )
        assert rig.count(Reason.RATE_LIMITED) - limited in (0, 1)
    return let_in


class Closing:
    """An upstream that closes every connection in order once it has seen the ClientHello."""

    def __init__(self) -> None:
        self.host = UpstreamHost("uds")
        self.pid = os.fork()
        if self.pid == 0:
            try:
                while True:
                    sock, _ = self.host.listening.accept()
                    sock.recv(65536)
                    sock.close()
            finally:
                os._exit(0)

    @property
    def target(self) -> Upstream:
        return UdsUpstream(path=self.host.path)

    def close(self) -> None:
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        self.host.close()


@pytest.fixture
def closing() -> Iterator[Closing]:
    upstream = Closing()
    yield upstream
    upstream.close()


@pytest.mark.parametrize("acceptors", [1, 2])
def test_rate_limit_is_exact_while_the_limiter_is_up(stage: Stage, closing: Closing, acceptors: int) -> None:
    routes = snapshot(
        route("probe.test", closing.target, terminate=False, rate=1000.0, burst=1000.0),
        *(
            route(f"limited-{at}.test", closing.target, terminate=False, rate=SLOW, burst=5.0)
            for at in ATTEMPTS
        ),
        *(
            route(f"other-{at}.test", closing.target, terminate=False, rate=SLOW, burst=2.0)
            for at in ATTEMPTS
        ),
    )
    stage.start("rate-limiter", run_rate_limiter, LimiterSettings(stage.runtime_dir))
    rig = AcceptorRig(stage, routes, acceptors)
    try:
        processes = [rig.start(index) for index in range(acceptors)]
        assert try_route(rig, "probe.test", 10) == 10
        for at in ATTEMPTS:
            alone = rig.total(ROUTE_DECIDED_ALONE)
            limited = rig.count(Reason.RATE_LIMITED)
            let_in = try_route(rig, f"limited-{at}.test", 15), try_route(rig, f"other-{at}.test", 5)
            # On a machine so busy that the limiter did not answer in time once, nothing exact is promised.
            if rig.total(ROUTE_DECIDED_ALONE) == alone:
                break
        else:
            pytest.fail(f"the limiter was late in each of {len(ATTEMPTS)} attempts")
        assert let_in == (5, 2)
        assert rig.count(Reason.RATE_LIMITED) - limited == 13
        assert set(rig.failures) == {"rate_limited"}
        assert [complaints(process) for process in processes] == [[]] * acceptors
    finally:
        rig.close()


@pytest.mark.parametrize("acceptors", [1, 2])
def test_rate_limit_is_shared_out_while_the_limiter_is_down(
    stage: Stage, closing: Closing, acceptors: int
) -> None:
    """Each acceptor lets its share in, and all of them together never more than the whole."""
    routes = snapshot(route("limited.test", closing.target, terminate=False, rate=SLOW, burst=4.0))
    rig = AcceptorRig(stage, routes, acceptors)
    try:
        processes = [rig.start(index) for index in range(acceptors)]
        assert try_route(rig, "limited.test", 40) == 4  # 20 for each of two: both use up their share
        assert rig.count(Reason.RATE_LIMITED) == 36
        assert [complaints(process) for process in processes] == [[]] * acceptors
    finally:
        rig.close()


def test_running_out_of_descriptors(stage: Stage, upstream: UpstreamHost) -> None:
    """Accepting rests, what is open goes on, nothing spins; and it recovers as soon as there is room."""
    routes = snapshot(route("localhost", UdsUpstream(path=upstream.path)))
    with running(stage, routes) as (rig, process):
        site = Site(rig, process, upstream)
        kept = [site.open() for _ in range(2)]
        hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[1]
        most = descriptors(process.pid) + 7
        highest = max(int(number) for number in os.listdir(f"/proc/{process.pid}/fd"))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (max(most, highest + 1), hard))
        silent = [connect(rig.port) for _ in range(40)]
        wait_until(lambda: "accept_paused" in process.log(), "accepting rests")
        for client, server in kept:
            exchange(client, server)
        taken = rig.total(ACCEPTED)
        before = cpu_seconds(process.pid)
        time.sleep(0.7)  # the time that is measured
        assert cpu_seconds(process.pid) - before < 0.1
        assert rig.total(ACCEPTED) == taken < len(silent)
        for client, server in kept:
            exchange(client, server)

        for sock in silent:
            sock.close()
        client, server = site.open()
        kept.append((client, server))
        for client, server in kept:
            exchange(client, server)
            client.sock.close()
            server.sock.close()
        wait_until(lambda: rig.active == 0, "all are over")
        assert rig.count(Reason.CLIENT_LEFT) == len(silent)
        lines = [json.loads(line) for line in complaints(process)]
        assert [line["event"] for line in lines] == ["accept_paused"]  # one line, not one for every try
        assert "ulimit -n" in lines[0]["advice"]


def test_who_comes_when_there_is_no_room_waits_and_is_not_reset(stage: Stage, upstream: UpstreamHost) -> None:
    """All at once, so that each is accepted before the first of them needs a descriptor to its upstream."""
    clients = 90
    routes = snapshot(route("localhost", UdsUpstream(path=upstream.path)))
    rig = AcceptorRig(stage, routes)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    # Its connections have numbers from the lowest that is free, which this process has in use in part, too.
    few = max(map(int, os.listdir("/proc/self/fd"))) + 100
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
        process = rig.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        site = Site(rig, process, upstream)
        before = descriptors(process.pid)
        waiting = [connect(rig.port) for _ in range(clients)]
        for sock in waiting:
            sock.sendall(SteppedClient("localhost").hello())
        wait_until(lambda: "accept_paused" in process.log(), "accepting rests")
        taken = rig.total(ACCEPTED)
        assert 20 <= taken < clients
        assert descriptors(process.pid) <= before + taken
        assert rig.count(Reason.DESCRIPTOR_LIMIT) == 0
        for sock in waiting[: clients // 2]:  # some of them are in, some still wait
            sock.close()
        wait_until(lambda: rig.total(ACCEPTED) > taken, "others come in")
        for sock in waiting:
            sock.close()
        wait_until(lambda: rig.total(ACCEPTED) == clients and rig.active == 0, "all have had their turn")
        assert rig.count(Reason.DESCRIPTOR_LIMIT) == 0
        client, server = site.open()
        exchange(client, server)
        client.sock.close()
        server.sock.close()
        lines = [json.loads(line) for line in complaints(process)]
        assert [line["event"] for line in lines] == ["accept_paused"]
    finally:
        rig.close()


def test_room_is_for_connections_with_both_their_sockets(stage: Stage, upstream: UpstreamHost) -> None:
    """As many as there is room for are served, and nobody is reset for want of a descriptor."""
    routes = snapshot(route("localhost", UdsUpstream(path=upstream.path)))
    rig = AcceptorRig(stage, routes)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 100, hard))
        process = rig.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        site = Site(rig, process, upstream)
        served = []
        while "accept_paused" not in process.log():
            served.append(site.open())
            assert len(served) < 100
        assert len(served) >= 20
        assert rig.failures == {}
        for client, server in served:
            exchange(client, server)
            client.sock.close()
            server.sock.close()
        wait_until(lambda: rig.active == 0, "all are over")
        client, server = site.open()
        exchange(client, server)
        client.sock.close()
        server.sock.close()
    finally:
        rig.close()


def test_no_descriptor_left_for_an_upstream(stage: Stage, upstream: UpstreamHost) -> None:
    """A connection that was accepted with the last descriptor is reset and counted."""
    routes = snapshot(route("localhost", UdsUpstream(path=upstream.path)))
    with running(stage, routes) as (rig, process):
        site = Site(rig, process, upstream)
        kept = site.open()
        hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[1]
        used = {int(number) for number in os.listdir(f"/proc/{process.pid}/fd")}
        free = [number for number in range(1024) if number not in used]
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (free[1], hard))  # one is left
        with connect(rig.port) as sock:
            SteppedClient("localhost").finish(sock)
            assert ended_by_reset(sock)
        wait_until(lambda: rig.count(Reason.DESCRIPTOR_LIMIT) == 1, "it is counted")
        exchange(*kept)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (1024, hard))
        again = site.open()
        for client, server in (kept, again):
            exchange(client, server)
            client.sock.close()
            server.sock.close()
