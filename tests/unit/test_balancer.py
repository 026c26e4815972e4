"""Which upstream a connection goes to, and what is remembered about upstreams."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symphony.config.model import Balance, TcpUpstream, UdsUpstream, Upstream
from symphony.observe.counters import CounterPage
from symphony.routing import rendezvous
from symphony.routing.balancer import Balancer, LeastConnections, Loads
from symphony.routing.pool import UpstreamPool
from symphony.routing.upstream import UpstreamSlot

A, B, C = (TcpUpstream(host="127.0.0.1", port=port) for port in (1, 2, 3))
UNIX = UdsUpstream(path="/run/app.sock", pid=10, tid=11)
STRATEGIES: tuple[Balance, ...] = ("least_connections", "round_robin", "random", "ip_hash")

weights = st.lists(st.integers(1, 1000), min_size=1, max_size=12)
small_weights = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def upstreams(count: int, weights: list[int] | None = None) -> list[Upstream]:
    return [
        TcpUpstream(host="127.0.0.1", port=number + 1, weight=weights[number] if weights else 1)
        for number in range(count)
    ]


def occupy(slot: UpstreamSlot, connections: int) -> None:
    for _ in range(connections):
        slot.record.begin()


def pick(balancer: Balancer, address: str = "") -> UpstreamSlot:
    slot = balancer.pick((), address)
    assert slot is not None
    return slot


def test_lowest_load_wins() -> None:
    pool = UpstreamPool()
    balancer = pool.balancer((A, UNIX, C))
    a, unix, c = balancer.slots
    for slot, connections in ((a, 2), (unix, 1), (c, 2)):
        occupy(slot, connections)
    assert pick(balancer) is unix
    unix.cpu_permille = 1001
    assert pick(balancer) in (a, c)
    unix.cpu_permille = 999
    assert pick(balancer) is unix


def test_ties_rotate() -> None:
    balancer = UpstreamPool().balancer((A, B, C))
    picks = [balancer.pick() for _ in range(9)]
    assert Counter(picks) == dict.fromkeys(balancer.slots, 3)
    assert len(set(picks[:3])) == 3
    occupy(balancer.slots[1], 1)
    assert Counter(balancer.pick() for _ in range(8)) == {balancer.slots[0]: 4, balancer.slots[2]: 4}


def test_connections_spread_evenly() -> None:
    balancer = UpstreamPool().balancer((A, B, C))
    for _ in range(30):
        occupy(pick(balancer), 1)
    assert [slot.active for slot in balancer.slots] == [10, 10, 10]


@settings(deadline=None)
@given(small_weights)
def test_connections_spread_by_weight(weights: list[int]) -> None:
    balancer = UpstreamPool().balancer(upstreams(len(weights), weights))
    for _ in range(sum(weights) * 5):
        occupy(pick(balancer), 1)
    # The last connections of a round may go either way between upstreams whose loads are equal then.
    for slot, weight in zip(balancer.slots, weights, strict=True):
        assert abs(slot.active - weight * 5) <= 1


def test_short_connections_go_by_weight_too() -> None:
    balancer = UpstreamPool().balancer(upstreams(3, [3, 2, 1]))
    picks = Counter(balancer.pick() for _ in range(60))  # none is open any more when the next one comes
    assert [picks[slot] for slot in balancer.slots] == [30, 20, 10]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_upstream_is_tried_at_most_once(strategy: Balance) -> None:
    balancer = UpstreamPool().balancer((A, B, C), strategy=strategy)
    tried: set[UpstreamSlot] = set()
    while (slot := balancer.pick(tried, "192.0.2.1")) is not None:
        assert slot not in tried
        tried.add(slot)
    assert len(tried) == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_upstream(strategy: Balance) -> None:
    balancer = UpstreamPool().balancer((A,), strategy=strategy)
    only = pick(balancer)
    assert only is balancer.slots[0] is balancer.pick()
    assert balancer.pick([only]) is None
    assert UpstreamPool().balancer((), strategy=strategy).pick() is None


def test_an_upstream_that_stands_there_twice_is_one() -> None:
    assert len(UpstreamPool().balancer((A, A, B)).slots) == 2


def test_a_long_list_is_compared_in_parts() -> None:
    pages = [CounterPage([]) for _ in range(64)]
    pool = UpstreamPool([page.upstreams for page in pages])
    entries = upstreams(40)
    balancer = pool.balancer(entries, range(len(entries)))
    for _ in range(400):
        occupy(pick(balancer), 1)
    loads = [slot.active for slot in balancer.slots]
    assert sum(loads) == 400 and max(loads) <= 11, loads
    alone = balancer.slots[17]
    for slot in balancer.slots:
        if slot is not alone:
            occupy(slot, 100)
    # It is found at the latest when the search has gone round.
    assert alone in [balancer.pick() for _ in range(len(entries))]


def test_loads_are_those_of_all_acceptors() -> None:
    pages = [CounterPage([]) for _ in range(4)]
    areas = [page.upstreams for page in pages]
    entries = upstreams(8)
    balancers = [UpstreamPool(areas, index).balancer(entries, range(8)) for index in range(4)]
    for turn in range(400):
        occupy(pick(balancers[turn % 4]), 1)
    assert [slot.active for slot in balancers[2].slots] == [50] * 8
    # Also when all of them go to one acceptor from then on.
    for _ in range(80):
        occupy(pick(balancers[3]), 1)
    assert [slot.active for slot in balancers[0].slots] == [60] * 8


@settings(deadline=None, max_examples=60)
@given(
    st.permutations(range(6)),
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 2), st.sampled_from(["begin", "begin", "end", "move"]))
    ),
    st.booleans(),
)
def test_loads_read_at_once_are_those_of_each(
    numbers: list[int], steps: list[tuple[int, int, str]], sampled: bool
) -> None:
    """Whatever numbers the upstreams have, also when these change."""
    pages = [CounterPage([]) for _ in range(3)]
    pools = [UpstreamPool([page.upstreams for page in pages], own) for own in range(3)]
    each_one = [
        UdsUpstream(path=f"/run/{number}.sock", pid=1, tid=number + 1)
        if sampled
        else UdsUpstream(path=f"/run/{number}.sock")
        for number in range(6)
    ]
    balancers = [pool.balancer(each_one, numbers) for pool in pools]
    open_at: list[UpstreamSlot] = []
    for number, acceptor, action in steps:
        slot = balancers[acceptor].slots[number]
        if action == "begin":
            slot.record.begin()
            open_at.append(slot)
        elif action == "end" and open_at:
            open_at.pop().record.failed(0, 0, "")
        elif action == "move":
            moved = (numbers[number] + 6) % 13
            for pool in pools:
                pool.slot(each_one[number], moved)
        slot.cpu_permille = 10 * number if sampled else 0
        for balancer in balancers:
            loads = Loads(balancer.slots).read()
            kept = cast(LeastConnections, balancer)._loads.read()
            assert loads == kept
            if loads is not None:
                factor = 1 if sampled else 1000
                assert [load * factor for load in loads] == [
                    each.active * 1000 + each.cpu_permille for each in balancer.slots
                ]
            lowest = min(each.active * 1000 + each.cpu_permille for each in balancer.slots)
            chosen = balancer.pick()
            assert chosen is not None and chosen.active * 1000 + chosen.cpu_permille == lowest


@pytest.mark.parametrize("strategy", ["least_connections", "round_robin"])
def test_acceptors_do_not_all_begin_with_the_same_upstream(strategy: Balance) -> None:
    areas = [CounterPage([]).upstreams for _ in range(4)]
    entries = upstreams(8)
    pools = [UpstreamPool(areas, index) for index in range(4)]
    first = [pick(pool.balancer(entries, range(8), strategy)).upstream for pool in pools]
    assert len(set(first)) == 4


@settings(deadline=None)
@given(small_weights, st.integers(0, 20))
def test_round_robin_is_exact_over_every_cycle(weights: list[int], before: int) -> None:
    balancer = UpstreamPool().balancer(upstreams(len(weights), weights), strategy="round_robin")
    for _ in range(before):
        balancer.pick()
    cycle = Counter(balancer.pick() for _ in range(sum(weights)))
    assert all(cycle[slot] == slot.weight for slot in balancer.slots)


@settings(deadline=None)
@given(small_weights)
def test_round_robin_is_never_far_from_its_shares(weights: list[int]) -> None:
    balancer = UpstreamPool().balancer(upstreams(len(weights), weights), strategy="round_robin")
    total = sum(weights)
    seen: Counter[UpstreamSlot | None] = Counter()
    for number in range(1, 2 * total + 1):
        seen[balancer.pick()] += 1
        for slot in balancer.slots:
            assert abs(seen[slot] - number * slot.weight / total) < len(weights)


def test_random_goes_by_weight() -> None:
    balancer = UpstreamPool().balancer(upstreams(3, [1, 2, 5]), strategy="random")
    seen = Counter(balancer.pick() for _ in range(8000))
    # Five standard deviations are 220 at most: one run in a million fails by chance.
    for slot in balancer.slots:
        assert abs(seen[slot] - 1000 * slot.weight) < 220


def addresses(count: int) -> list[str]:
    return [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(count)]


def test_hash_goes_by_weight() -> None:
    chosen = [1, 2, 5, 12]
    balancer = UpstreamPool().balancer(upstreams(4, chosen), strategy="ip_hash")
    seen = Counter(balancer.pick((), address) for address in addresses(20_000))
    for slot in balancer.slots:
        assert abs(seen[slot] - 1000 * slot.weight) < 350  # five standard deviations; the hash never changes


@settings(max_examples=30, deadline=None)
@given(weights.filter(lambda given: len(given) > 2), st.data())
def test_hash_moves_only_the_clients_of_an_upstream_that_goes(
    weights: list[int], data: st.DataObject
) -> None:
    entries = upstreams(len(weights), weights)
    gone = data.draw(st.sampled_from(entries))
    before = UpstreamPool().balancer(entries, strategy="ip_hash")
    after = UpstreamPool(index=0).balancer([entry for entry in entries if entry != gone], strategy="ip_hash")
    for address in addresses(100):
        owner = pick(before, address).upstream
        assert owner == gone or pick(after, address).upstream == owner
        left_out = {slot for slot in before.slots if slot.upstream == gone}
        slot = before.pick(left_out, address)
        assert slot is not None and slot.upstream == pick(after, address).upstream


@settings(max_examples=30, deadline=None)
@given(weights.filter(lambda given: len(given) > 1), st.randoms())
def test_hash_does_not_depend_on_the_order_or_the_acceptor(weights: list[int], random: st.DataObject) -> None:
    entries = upstreams(len(weights), weights)
    areas = [CounterPage([]).upstreams for _ in range(3)]
    one = UpstreamPool(areas, 0).balancer(entries, strategy="ip_hash")
    mixed = list(entries)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    two = UpstreamPool(areas, 2).balancer(mixed, strategy="ip_hash")
    for address in addresses(50):
        assert pick(one, address).upstream == pick(two, address).upstream


def test_a_greater_weight_only_attracts() -> None:
    entries, heavier = upstreams(4), upstreams(4, [1, 1, 3, 1])
    before = UpstreamPool().balancer(entries, strategy="ip_hash")
    after = UpstreamPool().balancer(heavier, strategy="ip_hash")
    moved = 0
    for address in addresses(2000):
        old, new = pick(before, address).upstream.label, pick(after, address).upstream.label
        if old != new:
            moved += 1
            assert new == heavier[2].label
    assert moved > 300


def test_the_hash_is_what_it_was() -> None:
    """Other proxies in front of the same upstreams, and this one after a restart, count on it."""
    assert rendezvous.digest("192.0.2.1") == 0x11288B28CEFA74C8
    assert rendezvous.mix(1, 2) == 0x0B5181C509F8D8CE
    balancer = UpstreamPool().balancer(upstreams(5, [1, 2, 3, 4, 5]), strategy="ip_hash")
    chosen = [balancer.slots.index(pick(balancer, address)) for address in addresses(12)]
    assert chosen == [2, 2, 3, 4, 4, 4, 1, 3, 4, 2, 3, 1]


def test_mixing_spreads_over_all_bits() -> None:
    ones = [0] * 64
    for number in range(2000):
        value = rendezvous.mix(number, rendezvous.digest("tcp://127.0.0.1:80"))
        for bit in range(64):
            ones[bit] += value >> bit & 1
    assert all(850 < count < 1150 for count in ones), list(accumulate(ones))


def test_an_upstream_that_stays_keeps_its_slot() -> None:
    pool = UpstreamPool()
    old = pool.balancer((A, B))
    occupy(old.slots[0], 5)
    new = pool.balancer((TcpUpstream(host="127.0.0.1", port=1), C))
    assert new.slots[0] is old.slots[0]
    del old
    assert new.slots[0].active == 5
    assert len(pool) == 2  # B is forgotten


def test_an_upstream_that_is_used_otherwise_keeps_its_connections() -> None:
    pool = UpstreamPool()
    old = pool.balancer((A, B))
    occupy(old.slots[0], 5)
    new = pool.balancer((TcpUpstream(host="127.0.0.1", port=1, weight=7, connect_timeout_ms=1), B))
    assert new.slots[0] is not old.slots[0]
    assert (new.slots[0].weight, new.slots[0].active) == (7, 5)


def test_open_connections_keep_the_slot_of_a_removed_upstream() -> None:
    pool = UpstreamPool()
    held_by_connection = pool.balancer((A,)).slots[0]
    occupy(held_by_connection, 1)
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
