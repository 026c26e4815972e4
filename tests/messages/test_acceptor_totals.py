"""What an acceptor tells of routes and upstreams: for all acceptors, those included that are gone."""

from __future__ import annotations

from symphony.config.model import UdsUpstream
from symphony.config.numbering import number_snapshot
from symphony.mailbox.client import ask
from symphony.messages.acceptor import AcceptorReply
from symphony.messages.totals import DescribeRecords, RecordsDescription
from symphony.observe.counters import HANDSHAKES, LISTENER_DOWN, LISTENER_HANDSHAKES, LISTENER_UP
from symphony.observe.reasons import Reason
from symphony.observe.record_area import route_area, upstream_area
from tests.support.acceptor import LISTENER, AcceptorRig, route, snapshot, wait_until
from tests.support.actor_process import ActorProcess, Stage
from tests.support.peers import TlsPeer, UpstreamHost
from tests.support.site import Site, ended_by_reset, exchange
from tests.support.tls_client import connect

LIMIT_S = 20.0


async def records(stage: Stage, name: str = "acceptor-0") -> RecordsDescription:
    reply = await ask(stage.mailbox(name), DescribeRecords(), AcceptorReply, LIMIT_S)
    assert isinstance(reply, RecordsDescription)
    return reply


def use(rig: AcceptorRig, process: ActorProcess, upstream: UpstreamHost) -> None:
    """One connection that moves 200 bytes up and 300 down, from beginning to end."""
    client, server = Site(rig, process, upstream).open()
    exchange(client, server)
    server.sock.close()
    assert client.receive() == b""
    client.sock.close()
    wait_until(lambda: rig.active == 0, "it is over")


async def test_everything_is_told(stage: Stage, upstream: UpstreamHost) -> None:
    target = UdsUpstream(path=upstream.path)
    nowhere = UdsUpstream(path="/nowhere", max_fails=1, fail_timeout_ms=60_000)
    routes = number_snapshot(
        snapshot(
            route("localhost", target), route("dead.test", nowhere), route("unused.test", target), version=7
        ),
        None,
    )
    rig = AcceptorRig(stage, routes)
    process = rig.start()
    try:
        empty = await records(stage)
        assert empty == RecordsDescription(7, {}, {}, {}, {}, {})
        use(rig, process, upstream)
        with connect(rig.port) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert ended_by_reset(sock)
        wait_until(lambda: rig.active == 0, "all are over")
        told = await records(stage)
        assert list(told.routes) == ["localhost"] and list(told.upstreams) == [target.label]
        for found in (told.routes["localhost"], told.upstreams[target.label]):
            assert (found.active, found.connections, found.failures) == (0, 1, 0)
            assert (found.bytes_up, found.bytes_down) == (200, 300)
        assert told.handshake_times["localhost"].count == told.connect_times[target.label].count == 1
        with connect(rig.port) as sock:
            sock.settimeout(None)
            assert ended_by_reset(TlsPeer(sock, "dead.test").sock)
        wait_until(lambda: rig.active == 0, "all are over")
        told = await records(stage)
        assert told.impaired == {nowhere.label: "out"}
        assert (told.routes["dead.test"].failures, told.upstreams[nowhere.label].failures) == (1, 1)
        page = rig.pages[0]
        at = page.listener_slot(LISTENER)
        assert page.values[HANDSHAKES] == page.values[at + LISTENER_HANDSHAKES] == 2
        assert (page.values[at + LISTENER_UP], page.values[at + LISTENER_DOWN]) == (200, 300)
        assert rig.count(Reason.NOT_TLS) == 1
    finally:
        rig.close()


async def test_one_speaks_for_all_and_for_those_that_are_gone(stage: Stage, upstream: UpstreamHost) -> None:
    target = UdsUpstream(path=upstream.path)
    routes = number_snapshot(snapshot(route("localhost", target)), None)
    rig = AcceptorRig(stage, routes, acceptors=2)
    closed_routes, closed_upstreams = route_area(), upstream_area()
    changes = {"closed_routes": closed_routes, "closed_upstreams": closed_upstreams}
    first, second = rig.start(0, **changes), rig.start(1, **changes)
    try:
        for process in (first, second):
            use(rig, process, upstream)
        before = await records(stage, "acceptor-0")
        assert before.routes["localhost"].connections == before.upstreams[target.label].connections == 2
        assert await records(stage, "acceptor-1") == before
        second.kill()
        assert await records(stage) == before
        closed_routes.take_over(rig.pages[1].routes)
        closed_upstreams.take_over(rig.pages[1].upstreams)
        assert await records(stage) == before
        assert before.handshake_times["localhost"].count == before.connect_times[target.label].count == 2
    finally:
        rig.close()
