"""What acceptors find out about upstreams, what the others make of it, and where connections then go."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from symphony.config.model import Balance, HealthCheck, TcpUpstream
from symphony.observe.counters import CounterPage
from symphony.observe.record_area import CHANGES_KEPT, upstream_area
from symphony.observe.record_totals import add_up
from symphony.routing.balancer import Balancer
from symphony.routing.health import LEARNT_MS
from symphony.routing.pool import LISTEN_AT_ONCE, UpstreamPool
from symphony.routing.upstream import UpstreamSlot
from tests.support.clock import Clock, upstreams_clock

CHECK = HealthCheck(interval_ms=1000, timeout_ms=500, rise=2, fall=2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return upstreams_clock(monkeypatch)


class Acceptors:
    """Some acceptors with one route to `count` upstreams."""

    def __init__(
        self, acceptors: int, count: int, strategy: Balance = "least_connections", **keys: Any
    ) -> None:
        self.pages = [CounterPage([]) for _ in range(acceptors)]
        self.areas = [page.upstreams for page in self.pages]
        self.upstreams = [TcpUpstream(host="127.0.0.1", port=number + 1, **keys) for number in range(count)]
        self.strategy = strategy
        self.pools = [UpstreamPool(self.areas, index) for index in range(acceptors)]
        self.balancers = [self.balancer(pool) for pool in self.pools]

    def balancer(self, pool: UpstreamPool) -> Balancer:
        return pool.balancer(self.upstreams, range(len(self.upstreams)), self.strategy)

    def slot(self, acceptor: int, upstream: int = 0) -> UpstreamSlot:
        return self.pools[acceptor].slot(self.upstreams[upstream])

    def fail(self, acceptor: int, upstream: int = 0, times: int = 1) -> None:
        slot = self.slot(acceptor, upstream)
        for _ in range(times):
            slot.record.begin()
            slot.failed("refused")

    def succeed(self, acceptor: int, upstream: int = 0) -> None:
        record = self.slot(acceptor, upstream).record
        record.begin()
        record.connected(10)
        record.closed(0, 0)

    def listen(self) -> None:
        for pool in self.pools:
            while pool.listen():
                pass

    def states(self, upstream: int = 0) -> list[str]:
        return [self.slot(index, upstream).record.health.state for index in range(len(self.pools))]

    def choices(self, acceptor: int, picks: int = 20) -> set[int]:
        """The numbers of the upstreams that one acceptor's connections go to."""
        balancer = self.balancers[acceptor]
        found = set()
        for _ in range(picks):
            slot = balancer.pick((), "192.0.2.1")
            assert slot is not None
            found.add(slot.record.number)
        return found


def test_failures_of_all_acceptors_count_together(clock: Clock) -> None:
    acceptors = Acceptors(3, 2)
    with capture_logs() as lines:
        acceptors.fail(0)
        acceptors.fail(1)
        assert acceptors.states() == ["up"] * 3
        acceptors.fail(2)
        assert acceptors.states() == ["up", "up", "out"]
        acceptors.listen()
        assert acceptors.states() == ["out"] * 3
    assert lines == [
        {
            "event": "upstream_down",
            "log_level": "warning",
            "upstream": "tcp://127.0.0.1:1",
            "because": "3 connections failed, the last one: refused",
        }
    ]
    assert [acceptors.choices(index) for index in range(3)] == [{1}] * 3


def test_failures_that_are_long_apart_do_not_count_together(clock: Clock) -> None:
    acceptors = Acceptors(2, 2, max_fails=3, fail_timeout_ms=1000)
    for turn in range(20):
        acceptors.fail(turn % 2)
        clock.now += 501
    assert acceptors.states() == ["up", "up"]
    acceptors.fail(0, times=2)
    assert acceptors.states() == ["out", "up"]


def test_no_limit_to_failures(clock: Clock) -> None:
    acceptors = Acceptors(1, 2, max_fails=0)
    acceptors.fail(0, times=100)
    assert acceptors.states() == ["up"]
    assert acceptors.slot(0).record.totals.failures == 100


def test_one_connection_over_all_acceptors_tries_it(clock: Clock) -> None:
    acceptors = Acceptors(2, 2)
    acceptors.fail(0, times=3)
    acceptors.listen()
    clock.now += 10_000
    assert acceptors.choices(1) == {1}  # who has only heard of it waits
    slot = acceptors.balancers[0].pick()
    assert slot is acceptors.slot(0, 0)  # nobody is connected to it
    slot.record.begin()
    assert acceptors.choices(0) == acceptors.choices(1) == {1}
    with capture_logs() as lines:
        slot.record.connected(10)
        acceptors.listen()
    assert acceptors.states() == ["up", "up"]
    assert [(line["event"], line["log_level"]) for line in lines] == [("upstream_up", "info")]
    slot.record.closed(0, 0)
    assert acceptors.choices(1) == {0, 1}


def test_if_nobody_who_knows_comes_by_another_tries(clock: Clock) -> None:
    acceptors = Acceptors(2, 2)
    acceptors.fail(0, times=3)
    acceptors.listen()
    clock.now += 10_000 + LEARNT_MS
    assert 0 in acceptors.choices(1, 2)
    acceptors.fail(1)
    acceptors.listen()
    assert acceptors.states() == ["out", "out"]
    assert acceptors.choices(0) == {1}


def test_what_led_to_it_does_not_count_again(clock: Clock) -> None:
    acceptors = Acceptors(2, 2)
    acceptors.fail(0, times=2)
    acceptors.fail(1, times=2)
    acceptors.listen()
    acceptors.succeed(0)  # nothing else was there to try
    acceptors.listen()
    assert acceptors.states() == ["up", "up"]
    clock.now += 5
    for acceptor in (0, 1):
        acceptors.fail(acceptor)
        acceptors.listen()
        assert acceptors.states() == ["up", "up"]
    acceptors.fail(0)
    assert acceptors.states() == ["out", "up"]


@pytest.mark.parametrize("strategy", ["least_connections", "round_robin", "random", "ip_hash"])
def test_when_all_are_out_the_least_bad_is_tried(clock: Clock, strategy: Balance) -> None:
    acceptors = Acceptors(1, 3, strategy)
    for upstream in (1, 2, 0):
        acceptors.fail(0, upstream, times=3)
        clock.now += 10
    assert acceptors.choices(0) == {1}  # out for the longest time
    balancer = acceptors.balancers[0]
    tried: list[UpstreamSlot] = []
    while (slot := balancer.pick(tried)) is not None:
        tried.append(slot)
    assert [slot.record.number for slot in tried] == [1, 2, 0]
    acceptors.succeed(0, 2)
    assert acceptors.choices(0) == {2}


def test_the_only_upstream_is_always_tried(clock: Clock) -> None:
    acceptors = Acceptors(1, 1)
    acceptors.fail(0, times=10)
    assert acceptors.choices(0) == {0}
    acceptors.succeed(0)
    assert acceptors.states() == ["up"]


def test_clients_of_an_upstream_that_is_out_go_where_they_would_without_it(clock: Clock) -> None:
    acceptors = Acceptors(1, 4, "ip_hash")
    owners = {client: acceptors.balancers[0].pick((), client) for client in map(str, range(200))}
    acceptors.fail(0, 2, times=3)
    gone = acceptors.slot(0, 2)
    for client, owner in owners.items():
        now = acceptors.balancers[0].pick((), client)
        assert now is not gone and (owner is gone or now is owner)


def test_a_new_incarnation_knows_what_the_old_one_knew(clock: Clock) -> None:
    acceptors = Acceptors(2, 3)
    acceptors.fail(0, 0, times=3)
    acceptors.fail(1, 1, times=3)
    acceptors.pages[0].forget_active()
    acceptors.pools[0] = UpstreamPool(acceptors.areas, 0)
    acceptors.balancers[0] = acceptors.balancer(acceptors.pools[0])
    assert acceptors.choices(0) == {2}
    clock.now += 20_000
    assert acceptors.choices(0) == {0, 1, 2}


def test_a_number_that_is_given_on_brings_no_news(clock: Clock) -> None:
    acceptors = Acceptors(2, 2)
    acceptors.fail(0, 0, times=3)
    acceptors.listen()
    fresh = [TcpUpstream(host="127.0.0.1", port=99), TcpUpstream(host="127.0.0.1", port=98)]
    new = [pool.balancer(fresh, [0, 5]) for pool in acceptors.pools]
    assert [balancer.slots[0].record.health.state for balancer in new] == ["up", "up"]
    assert acceptors.states() == ["out", "out"]  # each for itself
    acceptors.listen()
    assert [balancer.slots[0].record.health.state for balancer in new] == ["up", "up"]


def test_upstreams_that_are_gone_are_forgotten(clock: Clock) -> None:
    acceptors = Acceptors(1, 2)
    acceptors.fail(0, 0, times=3)
    pool = acceptors.pools[0]
    assert pool._impaired == {"tcp://127.0.0.1:1"}
    acceptors.balancers[0] = pool.balancer(acceptors.upstreams[1:], [1])
    pool.forget_gone()
    assert pool._impaired == set()


def test_a_flood_of_news_is_taken_in_parts(clock: Clock) -> None:
    count = LISTEN_AT_ONCE + CHANGES_KEPT
    acceptors = Acceptors(2, count)
    for upstream in range(count):
        acceptors.fail(0, upstream, times=3)
    assert acceptors.pools[1].listen()
    assert not acceptors.pools[1].listen()
    assert {acceptors.states(upstream)[1] for upstream in range(count)} == {"out"}


def test_checks_count_over_all_acceptors(clock: Clock) -> None:
    acceptors = Acceptors(2, 2)
    records = [acceptors.slot(index).record for index in range(2)]
    for record in records:
        record.heed_checks(CHECK)
    with capture_logs() as lines:
        records[0].check_ended(CHECK, "connection refused")
        clock.now += 1000
        records[1].check_ended(CHECK, "connection refused")
        acceptors.listen()
        assert acceptors.states() == ["down", "down"]
        for record in records:
            clock.now += 1000
            record.check_ended(CHECK, "")
        acceptors.listen()
        assert acceptors.states() == ["up", "up"]
    assert [(line["event"], line["because"]) for line in lines] == [
        ("upstream_down", "connection refused"),
        ("upstream_up", "health checks succeed"),
    ]


def test_a_good_check_takes_back_what_connections_have_put_out(clock: Clock) -> None:
    acceptors = Acceptors(2, 2)
    record = acceptors.slot(1).record
    record.heed_checks(CHECK)
    acceptors.fail(0, times=3)
    acceptors.listen()
    record.check_ended(CHECK, "")
    acceptors.listen()
    assert acceptors.states() == ["up", "up"]


def test_checks_that_are_given_up_say_nothing_any_more(clock: Clock) -> None:
    acceptors = Acceptors(2, 2)
    records = [acceptors.slot(index).record for index in range(2)]
    for record in records:
        record.heed_checks(CHECK)
        record.check_ended(CHECK, "refused")
    acceptors.listen()
    assert acceptors.states() == ["down", "down"]
    records[0].heed_checks(None)
    acceptors.listen()
    assert acceptors.states() == ["up", "down"]
    # The other is still at it: who begins again soon knows at once, and who does so later does not believe old tales.
    records[0].heed_checks(CHECK)
    assert acceptors.states() == ["down", "down"]
    records[0].heed_checks(None)
    clock.now += 20 * CHECK.interval_ms
    records[0].heed_checks(CHECK)
    assert acceptors.states() == ["up", "down"]


def test_what_acceptors_said_that_are_gone_for_good_is_not_added_up(clock: Clock) -> None:
    acceptors = Acceptors(3, 2)
    closed = upstream_area()
    for index in range(3):
        acceptors.fail(index, 0, times=3)
        acceptors.slot(index).record.heed_checks(CHECK)
        acceptors.slot(index).record.check_ended(CHECK, "refused")
    for area in acceptors.areas[:2]:
        closed.take_over(area)
    assert add_up((*acceptors.areas, closed), 0, "tcp://127.0.0.1:1").failures == 9
    pool = UpstreamPool([*acceptors.areas[2:]], 0, closed)
    slot = pool.slot(acceptors.upstreams[0], 0)
    assert pool.totals(slot).failures == 9
    assert slot.record.health.state == "out"
