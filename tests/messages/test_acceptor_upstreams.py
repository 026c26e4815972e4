"""What an acceptor tells of the upstreams of its routes."""

from __future__ import annotations

from symphony.config.model import TcpUpstream, UdsUpstream
from symphony.config.numbering import number_snapshot
from symphony.mailbox.client import ask
from symphony.messages.acceptor import AcceptorReply
from symphony.messages.upstreams import DescribeUpstreams, UpstreamsDescription
from tests.support.acceptor import AcceptorRig, route, snapshot, wait_until
from tests.support.actor_process import Stage
from tests.support.backends import Backends, hold, visit

LIMIT_S = 20.0


async def describe(
    stage: Stage, first: int = 0, at_most: int = 10, name: str = "acceptor-0"
) -> UpstreamsDescription:
    reply = await ask(stage.mailbox(name), DescribeUpstreams(first, at_most), AcceptorReply, LIMIT_S)
    assert isinstance(reply, UpstreamsDescription)
    return reply


async def test_figures_are_those_of_all_acceptors(stage: Stage) -> None:
    with Backends(1) as backends:
        path = backends[0].address
        assert isinstance(path, str)
        served = number_snapshot(
            snapshot(
                route("one.test", UdsUpstream(path=path, weight=7), terminate=False),
                route("", UdsUpstream(path=path), TcpUpstream(host="127.0.0.1", port=9), terminate=False),
                version=5,
            ),
            None,
        )
        rig = AcceptorRig(stage, served, acceptors=2)
        try:
            for index in range(2):
                rig.start(index)
            held = [hold(rig.port, "one.test")[0] for _ in range(12)]
            for _ in range(3):
                assert visit(rig.port, "one.test") == "b0"
            wait_until(lambda: rig.active == 12, "some are over")
            for name in rig.names:
                found = await describe(stage, name=name)
                assert (found.version, found.total) == (5, 2)
                one, default = found.routes
                assert (one.route, one.balance, default.route) == ("one.test", "least_connections", "")
                (mine,) = one.upstreams
                assert (mine.upstream, mine.weight, mine.state) == (f"unix:{path}", 7, "up")
                assert (mine.active, mine.connections, mine.failures) == (12, 15, 0)
                assert mine.bytes_up > 0 and mine.bytes_down == 3 * 8 and mine.connect_us > 0
                same, unused = default.upstreams
                assert (same.weight, same.active, same.connections) == (1, 12, 15)
                assert (unused.upstream, unused.active, unused.state) == ("tcp://127.0.0.1:9", 0, "up")
            for sock in held:
                sock.close()
        finally:
            rig.close()


async def test_many_routes_come_in_pages(stage: Stage) -> None:
    names = [f"host-{number}.test" for number in range(70)]
    served = snapshot(*(route(name, UdsUpstream(path=f"/run/{name}"), terminate=False) for name in names))
    rig = AcceptorRig(stage, served)
    try:
        rig.start()
        found = []
        while page := (await describe(stage, len(found), 33)).routes:
            assert len(page) in (33, 4)
            found += [entry.route for entry in page]
        assert found == names
        for first, at_most, expected in ((-5, 3, 0), (69, 9, 1), (3, -2, 0), (70, 5, 0), (0, 0, 0)):
            answer = await describe(stage, first, at_most)
            assert (len(answer.routes), answer.total) == (expected, 70)
    finally:
        rig.close()
