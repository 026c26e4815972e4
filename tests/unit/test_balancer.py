"""Which upstream a connection goes to, and what is remembered about upstreams."""

from __future__ import annotations

from collections import Counter

from symphony.config.model import TcpUpstream, UdsUpstream
from symphony.routing.balancer import UpstreamPool

A, B, C = (TcpUpstream(host="127.0.0.1", port=port) for port in (1, 2, 3))
UNIX = UdsUpstream(path="/run/app.sock", pid=10, tid=11)


def test_lowest_load_wins() -> None:
    pool = UpstreamPool()
    balancer = pool.balancer((A, UNIX, C))
    a, unix, c = balancer.slots
    a.active, unix.active, c.active = 2, 1, 2
    assert balancer.pick() is unix
    unix.cpu_permille = 1001
    assert balancer.pick() in (a, c)
    unix.cpu_permille = 999
    assert balancer.pick() is unix


def test_ties_rotate() -> None:
    balancer = UpstreamPool().balancer((A, B, C))
    picks = [balancer.pick() for _ in range(9)]
    assert Counter(picks) == dict.fromkeys(balancer.slots, 3)
    assert len(set(picks[:3])) == 3
    balancer.slots[1].active = 1
    assert Counter(balancer.pick() for _ in range(8)) == {balancer.slots[0]: 4, balancer.slots[2]: 4}


def test_connections_spread_evenly() -> None:
    balancer = UpstreamPool().balancer((A, B, C))
    for _ in range(30):
        slot = balancer.pick()
        assert slot is not None
        slot.active += 1
    assert [slot.active for slot in balancer.slots] == [10, 10, 10]


def test_each_upstream_is_tried_at_most_once() -> None:
    balancer = UpstreamPool().balancer((A, B, C))
    balancer.slots[2].active = 1
    tried = []
    while (slot := balancer.pick(tried)) is not None:
        tried.append(slot)
    assert len(tried) == len(set(tried)) == 3
    assert tried[2] is balancer.slots[2]


def test_one_upstream() -> None:
    balancer = UpstreamPool().balancer((A,))
    only = balancer.pick()
    assert only is balancer.slots[0] is balancer.pick()
    assert balancer.pick([only]) is None


def test_an_upstream_that_stays_keeps_its_slot() -> None:
    pool = UpstreamPool()
    old = pool.balancer((A, B))
    old.slots[0].active = 5
    new = pool.balancer((TcpUpstream(host="127.0.0.1", port=1), C))
    assert new.slots[0] is old.slots[0]
    del old
    assert new.slots[0].active == 5
    assert len(pool) == 2  # B is forgotten


def test_open_connections_keep_the_slot_of_a_removed_upstream() -> None:
    pool = UpstreamPool()
    held_by_connection = pool.balancer((A,)).slots[0]
    held_by_connection.active = 1
    assert pool.slot(A) is held_by_connection
    del held_by_connection
    assert len(pool) == 0
    assert pool.slot(A).active == 0


def test_samples() -> None:
    pool = UpstreamPool()
    balancer = pool.balancer(
        (A, UNIX, UdsUpstream(path="/run/b.sock"), UdsUpstream(path="/run/c.sock", pid=10))
    )
    pool.take_samples([(10, 11, 750), (10, 10, 20), (1, 1, 5)])
    assert [slot.cpu_permille for slot in balancer.slots] == [0, 750, 0, 0]
    pool.take_samples([])
    assert balancer.slots[1].cpu_permille == 0
