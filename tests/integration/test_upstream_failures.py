"""Upstreams that refuse, are missing, hang or are busy: the next best is taken, or the client is reset."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from symphony.config.model import TcpUpstream, UdsUpstream, Upstream
from symphony.observe.counters import ACCEPTED
from symphony.observe.reasons import Reason
from tests.support.acceptor import route, running, snapshot, wait_until
from tests.support.actor_process import Stage
from tests.support.peers import UpstreamHost, receive_exactly
from tests.support.ports import lasting_port
from tests.support.site import Site, ended_by_reset, exchange
from tests.support.tls_client import SteppedClient, connect

TIMEOUT_MS = 400


class Full:
    """A listening socket whose backlog is full, so that no more connections get through."""

    def __init__(self, kind: str) -> None:
        self.host = UpstreamHost(kind, backlog=0)
        self._waiting: list[socket.socket] = []
        while True:
            sock = socket.socket(socket.AF_UNIX if kind == "uds" else socket.AF_INET)
            sock.setblocking(False)
            self._waiting.append(sock)
            address = self.host.path if kind == "uds" else ("127.0.0.1", self.host.port)
            try:
                sock.connect(address)
            except BlockingIOError:
                if kind == "uds" or not self._gets_through(sock):
                    break

    @staticmethod
    def _gets_through(sock: socket.socket) -> bool:
        deadline = time.monotonic() + 0.1
        while time.monotonic() < deadline:
            try:
                sock.getpeername()
            except OSError:
                time.sleep(0.005)
            else:
                return True
        return False

    def make_room(self) -> None:
        """Take what waits, and throw it away."""
        self.host.listening.setblocking(False)
        while True:
            try:
                self.host.listening.accept()[0].close()
            except BlockingIOError:
                break
        self.host.listening.setblocking(True)

    def close(self) -> None:
        for sock in self._waiting:
            sock.close()
        self.host.close()


class Rooms:
    """Upstreams of every kind of brokenness, each made once for the module."""

    def __init__(self, stack: ExitStack) -> None:
        self.full_uds, self.full_tcp = Full("uds"), Full("tcp")
        self.alive, self.second = UpstreamHost("uds"), UpstreamHost("tcp")
        self.dead = UpstreamHost("uds")  # its file stays, nobody listens
        self.dead.listening.close()
        for each in (self.full_uds, self.full_tcp, self.alive, self.second):
            stack.callback(each.close)
        stack.callback(os.rmdir, self.dead.directory)
        stack.callback(os.unlink, self.dead.path)
        self.port = lasting_port()

    def upstreams(self) -> dict[str, tuple[Upstream, ...]]:
        alive = UdsUpstream(path=self.alive.path)
        second = TcpUpstream(host="127.0.0.1", port=self.second.port)
        missing = UdsUpstream(path=self.dead.path + "-not")
        refusing = UdsUpstream(path=self.dead.path)
        closed = TcpUpstream(host="127.0.0.1", port=self.port)
        nameless = TcpUpstream(host="no-such-host.invalid", port=80, connect_timeout_ms=TIMEOUT_MS)
        hanging = TcpUpstream(host="127.0.0.1", port=self.full_tcp.host.port, connect_timeout_ms=TIMEOUT_MS)
        busy = UdsUpstream(path=self.full_uds.host.path, connect_timeout_ms=TIMEOUT_MS)
        return {
            "missing": (missing,),
            "refusing": (refusing,),
            "closed": (closed,),
            "nameless": (nameless,),
            "hanging": (hanging,),
            "busy": (busy,),
            "all-dead": (missing, refusing, closed),
            "missing-first": (missing, alive),
            "closed-first": (closed, second),
            "hanging-first": (hanging, alive),
            "busy-first": (busy, alive),
            "nameless-first": (nameless, alive),
        }


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Site, Rooms]]:
    with ExitStack() as stack:
        rooms = Rooms(stack)
        routes = [
            *(route(name, *upstreams) for name, upstreams in rooms.upstreams().items()),
            *(
                route(f"pass.{name}", *upstreams, terminate=False)
                for name, upstreams in rooms.upstreams().items()
            ),
            route("localhost", UdsUpstream(path=rooms.alive.path)),
        ]
        stage = stack.enter_context(Stage())
        rig, process = stack.enter_context(running(stage, snapshot(*routes)))
        yield Site(rig, process, rooms.alive), rooms


def last_failure(site: Site) -> dict[str, str]:
    """The last log line of a connection that failed; half a line may be there already, and is not looked at."""
    lines = [line for line in site.process.log().splitlines(True) if "connection_failed" in line]
    whole = [line for line in lines if line.endswith("\n")]
    found: dict[str, str] = json.loads(whole[-1]) if whole else {"route": ""}
    return found


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize(
    ("name", "reason", "waits_s"),
    [
        ("missing", Reason.UPSTREAM_MISSING, 0.0),
        ("refusing", Reason.UPSTREAM_REFUSED, 0.0),
        ("closed", Reason.UPSTREAM_REFUSED, 0.0),
        ("nameless", Reason.UPSTREAM_UNRESOLVED, 0.0),
        ("hanging", Reason.UPSTREAM_TIMEOUT, TIMEOUT_MS / 1000),
        ("busy", Reason.UPSTREAM_BUSY, TIMEOUT_MS / 1000),
        ("all-dead", None, 0.0),
    ],
)
def test_client_is_reset_when_no_upstream_answers(
    place: tuple[Site, Rooms], name: str, reason: Reason | None, waits_s: float, terminated: bool
) -> None:
    site, _ = place
    reasons = (Reason.UPSTREAM_MISSING, Reason.UPSTREAM_REFUSED) if reason is None else (reason,)
    with site.neighbour(), connect(site.port) as sock:
        before = sum(site.rig.failures.values())
        expected = sum(site.rig.count(each) for each in reasons) + 1
        began = time.monotonic()
        client = SteppedClient(name if terminated else f"pass.{name}")
        if terminated:
            client.finish(sock)
        else:
            sock.sendall(client.hello())
        assert ended_by_reset(sock)
        assert waits_s <= time.monotonic() - began < waits_s + 5.0
        wait_until(lambda: sum(site.rig.failures.values()) == before + 1, "it is counted once")
        assert sum(site.rig.count(each) for each in reasons) == expected
        name = name if terminated else f"pass.{name}"
        wait_until(lambda: last_failure(site)["route"] == name, "it is logged")
        line = last_failure(site)
    wait_until(lambda: site.rig.active == 0, "all are over")
    assert line["level"] == "warning"
    assert line["detail"].startswith(("unix:/", "tcp://"))


@pytest.mark.parametrize(
    "name", ["missing-first", "closed-first", "hanging-first", "busy-first", "nameless-first"]
)
def test_next_best_upstream_is_taken(place: tuple[Site, Rooms], name: str) -> None:
    """Four times, since equal loads take turns: at least every other connection meets the dead one first."""
    site, rooms = place
    with site.neighbour():
        before = site.rig.failures
        for _ in range(4):
            with connect(site.port) as sock:
                client = SteppedClient(name)
                client.finish(sock)
                server = (rooms.second if name == "closed-first" else rooms.alive).accept()
                client.send(sock, b"hello")
                assert receive_exactly(server, 5) == b"hello"
                server.sock.close()
                assert client.receive(sock) == b""
        wait_until(lambda: site.rig.active == 1, "all are over")
        assert site.rig.failures == before


def test_busy_upstream_is_asked_again_until_there_is_room() -> None:
    full = Full("uds")
    alive = UpstreamHost("uds")
    routes = snapshot(
        route("localhost", UdsUpstream(path=full.host.path)), route("other", UdsUpstream(path=alive.path))
    )
    try:
        with Stage() as stage, running(stage, routes) as (rig, process):
            site = Site(rig, process, full.host)
            sock = connect(rig.port)
            client = SteppedClient("localhost")
            client.finish(sock)
            client.send(sock, b"hello")
            accepted = rig.total(ACCEPTED)
            other = Site(rig, process, alive).open("other")  # the acceptor serves others meanwhile
            exchange(*other)
            assert rig.total(ACCEPTED) == accepted + 1 and rig.failures == {}
            full.make_room()
            server = site.upstream.accept()
            assert receive_exactly(server, 5) == b"hello"
            server.sock.close()
            assert client.receive(sock) == b""
            for each in (sock, *(peer.sock for peer in other)):
                each.close()
            wait_until(lambda: rig.active == 0, "all are over")
            assert rig.failures == {}
    finally:
        full.close()
        alive.close()


def test_upstream_that_comes_back_is_used_again(place: tuple[Site, Rooms]) -> None:
    """Nothing is remembered against an upstream that failed."""
    site, rooms = place
    path = rooms.dead.path + "-not"
    with connect(site.port) as sock:
        SteppedClient("missing").finish(sock)
        assert ended_by_reset(sock)
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(path)
        listening.listen()
        listening.settimeout(5)
        with connect(site.port) as sock:
            SteppedClient("missing").finish(sock)
            listening.accept()[0].close()
    finally:
        listening.close()
        os.unlink(path)
    wait_until(lambda: site.rig.active == 0, "all are over")
