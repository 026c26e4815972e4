"""Whether connections should go to an upstream, after what has happened."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from symphony.routing.health import (
    LEARNT_MS,
    LONGEST_STREAK,
    Health,
    Passive,
    checked_at,
    failures,
    tally_failure,
)

DAY_MS = 86_400_000
times = st.integers(1, 10 * 365 * DAY_MS)


def test_in_until_enough_have_failed() -> None:
    health = Health()
    assert (health.available(0), health.impaired, health.state) == (True, False, "up")
    assert not health.failed(1000, False, 500)
    assert health.available(1000)
    assert health.failed(1001, True, 500)
    assert (health.available(1001), health.impaired, health.state) == (False, True, "out")


def test_one_connection_tries_it_after_the_time() -> None:
    health = Health()
    health.failed(1000, True, 500)
    assert not health.available(1499) and health.available(1500)
    health.attempt()
    assert not health.available(1500) and health.state == "trying"
    assert health.succeeded(1510)
    assert (health.state, health.available(1510)) == ("up", True)
    assert not health.succeeded(1520)  # nothing new


def test_a_try_that_fails_is_out_for_as_long_again() -> None:
    health = Health()
    health.failed(1000, True, 500)
    health.attempt()
    assert health.failed(1600, False, 500)
    assert health.state == "out"
    assert not health.available(2099) and health.available(2100)


def test_a_try_that_is_given_up_leaves_it_to_another() -> None:
    health = Health()
    health.failed(1000, True, 500)
    health.attempt()
    health.abandoned()
    assert health.available(1500) and health.state == "out"
    health.succeeded(1500)
    health.abandoned()
    assert health.state == "up"


def test_checks_have_their_own_say() -> None:
    health = Health()
    for _ in range(2):
        health.checked(1000, False, 2, 3)
    assert not health.down
    health.checked(1000, True, 2, 3)
    for at in range(2):
        health.checked(1001 + at, False, 2, 3)
    assert health.available(1002)  # three, but not in a row
    health.checked(1003, False, 2, 3)
    assert (health.down, health.available(99_999), health.state) == (True, False, "down")
    health.checked(1004, True, 2, 3)
    assert health.down and checked_at(health.check) == 1004
    health.checked(1005, True, 2, 3)
    assert not health.impaired
    health.checked(1006, False, 1, 1)
    health.forget_checks()
    assert health.available(1006)


def test_both_must_agree() -> None:
    health = Health()
    health.failed(1000, True, 500)
    health.checked(1000, False, 1, 1)
    assert not health.available(5000)
    health.checked(1001, True, 1, 1)
    assert not health.available(1001) and health.available(1500)
    health.succeeded(1002)
    assert not health.impaired


def test_the_least_bad() -> None:
    good, later, sooner, down = Health(), Health(), Health(), Health()
    later.failed(2000, True, 500)
    sooner.failed(1000, True, 500)
    down.checked(1, False, 1, 1)
    assert sorted([down, later, good, sooner], key=lambda health: health.badness) == [
        good,
        sooner,
        later,
        down,
    ]


def test_what_others_say_is_believed_and_tried_later() -> None:
    here, there = Health(), Health()
    there.failed(1000, True, 500)
    here.hear(there.statement, 0)
    assert here.state == "out"
    assert not here.available(1499 + LEARNT_MS) and here.available(1500 + LEARNT_MS)
    there.attempt()
    there.succeeded(1501)
    here.hear(there.statement, 0)
    assert here.state == "up"
    there.checked(1600, False, 1, 1)
    here.hear(there.statement, there.check)
    assert here.state == "down"


def test_old_news_is_none() -> None:
    health = Health()
    health.failed(1000, True, 500)
    old = health.statement
    health.checked(1001, False, 1, 1)
    old_check = health.check
    health.succeeded(1002)
    health.checked(1003, True, 1, 1)
    health.hear(old, old_check)
    assert health.state == "up"


def test_statements_of_one_millisecond_keep_their_order() -> None:
    here, there = Health(), Health()
    here.failed(1000, True, 500)
    here.succeeded(1000)
    there.hear(here.statement, 0)
    assert there.state == "up"
    here.failed(1000, True, 500)
    there.hear(here.statement, 0)
    assert there.state == "out"


@settings(deadline=None)
@given(times, st.integers(100, DAY_MS))
def test_the_time_in_a_statement_is_right_to_a_tenth_of_a_second(now: int, for_ms: int) -> None:
    here, there = Health(), Health()
    here.failed(now, True, for_ms)
    there.hear(here.statement, 0)
    assert 0 <= there.retry_at - LEARNT_MS - here.retry_at < 100
    assert -(2**63) <= here.statement < 2**63  # fits a word


@settings(deadline=None)
@given(times, st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 5), st.integers(1, 5))
def test_checks_go_from_one_acceptor_to_another(now: int, results: list[bool], rise: int, fall: int) -> None:
    alone, one, two = Health(), Health(), Health()
    for at, good in enumerate(results):
        alone.checked(now + at, good, rise, fall)
        checker, other = (one, two) if at % 2 else (two, one)
        checker.hear(0, other.check)
        checker.checked(now + at, good, rise, fall)
        assert checker.down == alone.down and checker.check == alone.check < 2**63


def test_long_streaks() -> None:
    health = Health()
    for good in (True, False, True):
        for _ in range(LONGEST_STREAK + 50):
            health.checked(5, good, 100, 100)
        assert health.down is not good and checked_at(health.check) == 5


@settings(deadline=None)
@given(times, st.lists(st.integers(0, 3000), min_size=1, max_size=40), st.integers(100, 2000))
def test_tally_counts_what_happened_within_its_time(now: int, gaps: list[int], within: int) -> None:
    tally = 0
    happened: list[int] = []
    for gap in gaps:
        now += gap
        happened.append(now)
        tally = tally_failure(tally, now, within)
        counted = failures([tally], now - within)
        # Never more than there were, and all of them since the one that it begins with.
        assert 1 <= counted <= sum(at >= now - within for at in happened)
        assert counted == sum(at >= tally >> 16 for at in happened)
    assert failures([tally], now + 1) == 0 and failures([0, 0], 0) == 0


def test_tallies_of_all_acceptors_are_added() -> None:
    tallies = [tally_failure(0, 1000, 500), tally_failure(tally_failure(0, 1100, 500), 1200, 500), 0]
    assert failures(tallies, 900) == 3
    assert failures(tallies, 1050) == 2


class Model(RuleBasedStateMachine):
    """The machine beside a few plain facts about what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.health = Health()
        self.now = 1000
        self.out_until: int | None = None
        self.trying = False

    @rule(ms=st.integers(0, 3000))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule(enough=st.booleans(), for_ms=st.integers(100, 2000))
    def fails(self, enough: bool, for_ms: int) -> None:
        stated = self.health.failed(self.now, enough, for_ms)
        assert stated == (enough or self.out_until is not None)
        if stated:
            self.out_until, self.trying = self.now + for_ms, False

    @rule()
    def succeeds(self) -> None:
        assert self.health.succeeded(self.now) == (self.out_until is not None)
        self.out_until, self.trying = None, False

    @rule()
    def is_given_up(self) -> None:
        self.health.abandoned()
        self.trying = False

    @precondition(lambda self: self.health.available(self.now))
    @rule()
    def is_chosen(self) -> None:
        self.health.attempt()
        self.trying = self.out_until is not None

    @invariant()
    def agrees(self) -> None:
        out = self.out_until is not None and (self.now < self.out_until or self.trying)
        assert self.health.available(self.now) is not out
        assert self.health.impaired == (self.out_until is not None)
        expected = Passive.TRYING if self.trying else Passive.OUT
        assert self.health.passive is (Passive.IN if self.out_until is None else expected)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
