"""A client stays with its upstream, whichever acceptor takes it and whatever becomes of the list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symphony.config.model import TcpUpstream, UdsUpstream, Upstream
from symphony.observe.counters import CounterPage
from symphony.routing.affinity import AffinityTable
from symphony.routing.balancer import Affinity, Balancer
from symphony.routing.pool import UpstreamPool
from tests.support.clock import Clock, upstreams_clock

TTL_MS = 10_000
CLIENTS = [f"192.0.2.{number}" for number in range(60)] + [f"2001:db8::{number:x}" for number in range(60)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return upstreams_clock(monkeypatch)


def entry(number: int, weight: int = 1) -> Upstream:
    if number % 2:
        return UdsUpstream(path=f"/run/{number}", weight=weight, ip_affinity=True, ip_affinity_ttl_ms=TTL_MS)
    return TcpUpstream(
        host="127.0.0.1", port=number + 1, weight=weight, ip_affinity=True, ip_affinity_ttl_ms=TTL_MS
    )


class Acceptors:
    """Some acceptors with one table; `serve` is a reload."""

    def __init__(self, count: int, numbers: Sequence[int], table: AffinityTable | None = None) -> None:
        self.areas = [CounterPage([]).upstreams for _ in range(count)]
        self.table = table or AffinityTable(8)
        self.pools = [UpstreamPool(self.areas, index, None, self.table) for index in range(count)]
        self.serve(numbers)

    def serve(self, numbers: Sequence[int], route: str = "a.test") -> None:
        self.balancers: list[Balancer] = [
            pool.balancer([entry(number) for number in numbers], numbers, route=route) for pool in self.pools
        ]
        assert all(type(balancer) is Affinity for balancer in self.balancers)

    def choose(self, acceptor: int, client: str) -> int:
        slot = self.balancers[acceptor].pick((), client)
        assert slot is not None
        return slot.record.number

    def owners(self, acceptor: int = 0) -> dict[str, int]:
        return {client: self.choose(acceptor, client) for client in CLIENTS}


def test_all_acceptors_agree(clock: Clock) -> None:
    acceptors = Acceptors(3, range(5))
    first = {client: acceptors.choose(at % 3, client) for at, client in enumerate(CLIENTS)}
    assert all(acceptors.owners(index) == first for index in range(3))
    assert min(Counter(first.values()).values()) > 5


def test_acceptors_that_share_no_memory_agree_too(clock: Clock) -> None:
    assert Acceptors(1, range(5)).owners() == Acceptors(1, range(5)).owners()


def test_a_list_that_grows_moves_nobody(clock: Clock) -> None:
    acceptors = Acceptors(2, [0])
    before = acceptors.owners()
    acceptors.serve([0, 1, 2, 3])
    assert acceptors.owners(1) == before
    others = {f"198.51.100.{number}" for number in range(60)}
    assert len({acceptors.choose(0, client) for client in others}) == 4


def test_a_list_that_shrinks_moves_only_whom_it_must(clock: Clock) -> None:
    acceptors = Acceptors(2, range(4))
    before = acceptors.owners()
    acceptors.serve([3, 1])
    after = acceptors.owners(1)
    assert all(
        now == then if then in (1, 3) else now in (1, 3)
        for now, then in zip(after.values(), before.values(), strict=True)
    )
    # Who had to move stays where he is now.
    acceptors.serve(range(4))
    assert acceptors.owners() == after
    acceptors.serve([7])
    assert set(acceptors.owners().values()) == {7}


def test_clients_of_one_that_is_out_move_and_stay(clock: Clock) -> None:
    acceptors = Acceptors(2, range(4))
    before = acceptors.owners()
    gone = acceptors.balancers[0].slots[2]
    for _ in range(3):
        gone.record.begin()
        gone.failed("refused")
    for pool in acceptors.pools:
        pool.listen()
    after = acceptors.owners(1)
    assert all(
        now == then if then != 2 else now != 2
        for now, then in zip(after.values(), before.values(), strict=True)
    )
    gone.record.begin()
    gone.record.connected(1)
    for pool in acceptors.pools:
        pool.listen()
    assert acceptors.owners() == after


def test_one_failed_attempt_moves_nobody(clock: Clock) -> None:
    acceptors = Acceptors(1, range(4))
    before = acceptors.owners()
    balancer = acceptors.balancers[0]
    for client, number in before.items():
        first = balancer.pick((), client)
        assert first is not None and first.record.number == number
        second = balancer.pick([first], client)
        assert second is not None and second is not first
    assert acceptors.owners() == before
    assert balancer.pick(balancer.slots, CLIENTS[0]) is None


def test_idle_clients_are_forgotten(clock: Clock) -> None:
    acceptors = Acceptors(1, [0])
    acceptors.owners()
    acceptors.serve([0, 1, 2, 3])
    for _ in range(10):
        clock.now += TTL_MS // 2
        assert acceptors.choose(0, CLIENTS[0]) == 0
    assert len(set(acceptors.owners().values())) == 4


def test_routes_do_not_mix(clock: Clock) -> None:
    acceptors = Acceptors(1, [0])
    acceptors.owners()
    acceptors.serve([0, 1], route="b.test")
    assert set(acceptors.owners().values()) == {0, 1}


def test_without_a_number_the_address_alone_decides(clock: Clock) -> None:
    pool = UpstreamPool()
    balancer = pool.balancer([entry(number) for number in range(3)])
    first = [balancer.pick((), client) for client in CLIENTS]
    assert [balancer.pick((), client) for client in CLIENTS] == first
    assert len(set(first)) == 3


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 12), min_size=1, max_size=6, unique=True), st.integers(0, 3 * TTL_MS)
        ),
        min_size=1,
        max_size=8,
    )
)
def test_reloads_never_break_it(reloads: list[tuple[list[int], int]]) -> None:
    """Beside a model: a client's upstream is the remembered one while it is listed and its time is not over."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        clock = Clock()
        monkeypatch.setattr("symphony.routing.upstream.now_ms", clock)
        monkeypatch.setattr("symphony.routing.balancer.now_ms", clock)
        acceptors = Acceptors(2, [0], AffinityTable(10))
        remembered: dict[str, tuple[int, int]] = {}
        for turn, (numbers, pause_ms) in enumerate(reloads):
            acceptors.serve(numbers)
            for client in CLIENTS[::10]:
                number = acceptors.choose(turn % 2, client)
                assert number in numbers
                known, used = remembered.get(client, (-1, 0))
                # The table counts in quarters of a second, and notes a use only now and then.
                if known in numbers and clock.now - used < TTL_MS * 7 // 8 - 500:
                    assert number == known
                remembered[client] = number, clock.now
            clock.now += pause_ms
