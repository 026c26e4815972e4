"""The rate limiter's table of sources: every decision, the box, open connections, eviction, and what survives."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symphony.protection import census
from symphony.protection.hold_cells import HoldCells, Holds
from symphony.protection.penalty import SourceLimits, TokenClock, Verdict
from symphony.protection.source_store import MAX_LISTENERS, SourceStore
from symphony.protection.sources import Decision, SourceTable, UnknownListener

PER_SECOND = SourceLimits(per_second=2.0, per_second_burst=3.0)
BOXED = SourceLimits(per_second=2.0, per_second_burst=3.0, penalty_s=60.0)
A, B = b"\x7f\0\0\1", b"\x7f\0\0\2"
SLOW = 0.001


class Table(SourceTable):
    """A table, and what it is made of."""

    def __init__(self, store: SourceStore, own: int = 0, pages: list[HoldCells] | None = None) -> None:
        self.pages = pages or [HoldCells(store.cells) for _ in range(own + 1)]
        super().__init__(store, Holds(own, self.pages))
        self.store = store

    def __len__(self) -> int:
        return sum(census.count(self.store))

    def judge(self, key: bytes, now: float, listener: str = "web") -> Decision:
        found = self.decide(listener, key, now)
        assert found is not None, "nobody has the lock"
        return found


def table(limits: SourceLimits, capacity: int = 1000, now: float = 0.0) -> Table:
    made = Table(SourceStore(capacity))
    assert made.configure("web", limits, now)
    return made


def successor(store: SourceStore, limits: SourceLimits, now: float) -> Table:
    """The table of a process that comes after the one which used `store`, or is there beside it."""
    made = Table(store)
    assert made.configure("web", limits, now)
    return made


def verdicts(sources: Table, count: int, now: float, key: bytes = A) -> list[str]:
    return [sources.judge(key, now)[0].value for _ in range(count)]


def admitted(sources: Table, key: bytes, now: float) -> bool:
    return sources.judge(key, now)[0] in (Verdict.ADMITTED, Verdict.HELD)


def test_no_limits() -> None:
    sources = table(SourceLimits())
    assert set(verdicts(sources, 100, 0.0)) == {"admitted"}
    assert len(sources) == 0
    with pytest.raises(UnknownListener):
        sources.decide("other", A, 0.0)


def test_the_bucket_per_second() -> None:
    sources = table(PER_SECOND)
    assert verdicts(sources, 5, 10.0) == ["admitted"] * 3 + ["rate_limited"] * 2
    assert verdicts(sources, 1, 10.0, B) == ["admitted"]
    assert verdicts(sources, 1, 10.4) == ["rate_limited"]
    assert verdicts(sources, 2, 10.5) == ["admitted", "rate_limited"]
    assert verdicts(sources, 4, 100.0) == ["admitted"] * 3 + ["rate_limited"]


def test_the_bucket_per_minute_is_another() -> None:
    sources = table(SourceLimits(100.0, 100.0, per_minute=6.0, per_minute_burst=2.0))
    assert verdicts(sources, 3, 0.0) == ["admitted"] * 2 + ["sustained_limited"]
    assert verdicts(sources, 2, 10.0) == ["admitted", "sustained_limited"]
    only = table(SourceLimits(per_minute=60.0, per_minute_burst=1.0))
    assert verdicts(only, 2, 0.0) == ["admitted", "sustained_limited"]


def test_the_order_of_reasons() -> None:
    """Box before second before minute before open connections; a refusal takes nothing from what comes later."""
    sources = table(SourceLimits(1.0, 1.0, 60.0, 2.0, penalty_s=10.0, max_concurrent=1))
    verdict, cell = sources.judge(A, 0.0)
    assert verdict is Verdict.HELD
    assert verdicts(sources, 2, 0.0) == ["rate_limited", "penalty_boxed"]
    assert verdicts(sources, 1, 50.0) == ["too_many_connections"]
    sources.release(cell)
    assert verdicts(sources, 1, 60.0) == ["held"]
    slow = table(SourceLimits(10.0, 2.0, 1.0, 1.0, max_concurrent=1))
    assert verdicts(slow, 3, 0.0) == ["held", "sustained_limited", "rate_limited"]


@pytest.mark.parametrize(
    "limits",
    [
        (1.0, 0.5),
        (1.0, 0.0),
        (-1.0, 1.0),
        (float("nan"), 1.0),
        (1.0, float("nan")),
        (0.0, 0.0, 1.0, 0.0),
        (0.0, 0.0, 0.0, 0.0, -1.0),
        (0.0, 0.0, 0.0, 0.0, 0.0, -1),
    ],
)
def test_limits_that_make_no_bucket(limits: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        SourceLimits(*limits)  # type: ignore[arg-type]


# ---- the penalty box


def test_the_box() -> None:
    sources = table(BOXED)
    assert verdicts(sources, 5, 0.0) == ["admitted"] * 3 + ["rate_limited", "penalty_boxed"]
    assert verdicts(sources, 1, 59.9) == ["penalty_boxed"]
    assert verdicts(sources, 1, 60.1) == ["admitted"]
    assert verdicts(sources, 1, 0.0, B) == ["admitted"]


def test_the_box_is_extended_while_the_source_goes_on_exceeding() -> None:
    sources = table(BOXED)
    verdicts(sources, 4, 0.0)
    for step in range(1, 2000):  # ten a second: five times what it may
        assert verdicts(sources, 1, step / 10) == ["penalty_boxed"]
    end = 199.9
    assert verdicts(sources, 1, end + 59.0) == ["penalty_boxed"]
    assert verdicts(sources, 1, end + 61.0) == ["admitted"]


def test_a_source_in_the_box_that_keeps_to_its_limits_comes_out() -> None:
    sources = table(BOXED)
    verdicts(sources, 4, 0.0)
    seen = [verdicts(sources, 1, float(second))[0] for second in range(1, 70)]
    assert seen[:59] == ["penalty_boxed"] * 59
    assert seen[60:] == ["admitted"] * 9


def test_without_a_penalty_nobody_is_boxed() -> None:
    sources = table(PER_SECOND)
    assert verdicts(sources, 10, 0.0)[3:] == ["rate_limited"] * 7
    assert verdicts(sources, 1, 0.5) == ["admitted"]


# ---- changing limits


def test_other_limits_keep_what_is_known() -> None:
    sources = table(BOXED)
    verdicts(sources, 4, 0.0)
    verdicts(sources, 2, 0.0, B)
    sources.configure("web", SourceLimits(10.0, 3.0, penalty_s=5.0), 0.0)
    assert verdicts(sources, 2, 0.0, B) == ["admitted", "rate_limited"]
    assert verdicts(sources, 1, 59.0) == ["penalty_boxed"]


def test_a_faster_rate_fills_a_bucket_faster_and_a_smaller_burst_holds_less() -> None:
    sources = table(SourceLimits(1.0, 10.0))
    assert verdicts(sources, 11, 0.0)[-1] == "rate_limited"
    sources.configure("web", SourceLimits(100.0, 10.0), 1.0)  # one token was made so far
    assert verdicts(sources, 3, 1.01) == ["admitted", "admitted", "rate_limited"]
    sources.configure("web", SourceLimits(1.0, 2.0), 1.01)
    assert verdicts(sources, 1, 1.5) == ["rate_limited"]
    # What it lacks is more than it holds now, and is owed as far as anything is: four seconds' worth.
    assert verdicts(sources, 1, 4.4) == ["rate_limited"]
    assert verdicts(sources, 2, 4.6) == ["admitted", "rate_limited"]
    assert verdicts(sources, 3, 100.0) == ["admitted", "admitted", "rate_limited"]


def test_listeners_count_apart() -> None:
    sources = table(PER_SECOND)
    sources.configure("mail", PER_SECOND, 0.0)
    verdicts(sources, 4, 0.0)
    assert sources.judge(A, 0.0, "mail")[0] is Verdict.ADMITTED


# ---- open connections


def test_open_connections_over_all_tables() -> None:
    store = SourceStore(1000)
    pages = [HoldCells(store.cells) for _ in range(2)]
    for page in pages:
        page.claim()
    one, two = Table(store, 0, pages), Table(store, 1, pages)
    for each in (one, two):
        assert each.configure("web", SourceLimits(max_concurrent=3), 0.0)
    found = [each.judge(A, 0.0) for each in (one, two, one, two)]
    assert [verdict.value for verdict, _ in found] == ["held", "held", "held", "too_many_connections"]
    assert two.judge(B, 0.0)[0] is Verdict.HELD
    two.release(found[1][1])
    assert [admitted(one, A, 0.0) for _ in range(2)] == [True, False]
    assert one.hold("web", A, 0.0) == found[0][1], "what is open already counts whatever the limit"
    one.release(found[0][1])
    assert not admitted(two, A, 0.0)
    one.release(found[0][1])
    assert admitted(two, A, 0.0)
    two.release(-1)  # of one that was never counted


def test_what_is_open_is_not_forgotten() -> None:
    sources = table(SourceLimits(max_concurrent=1), capacity=2)
    cells = [sources.judge(key, 0.0)[1] for key in (A, B)]
    assert sources.judge(b"new", 0.0)[0] is Verdict.TABLE_FULL
    assert sources.hold("web", b"new", 0.0) == -1
    sources.release(cells[0])
    assert sources.judge(b"new", 1.0)[0] is Verdict.HELD
    assert sources.judge(B, 1.0)[0] is Verdict.TOO_MANY_CONNECTIONS


def test_pages_must_have_a_cell_for_each_place() -> None:
    store = SourceStore(1000)
    with pytest.raises(ValueError, match="for a store of"):
        Table(store, 0, [HoldCells(store.cells - 1)])


def test_who_has_as_much_open_as_is_allowed() -> None:
    sources = table(SourceLimits(max_concurrent=2))
    sources.configure("mail", SourceLimits(max_concurrent=1), 0.0)
    cells = [sources.judge(A, 0.0)[1] for _ in range(2)]
    sources.judge(B, 0.0)
    assert sources.judge(B, 0.0, "mail")[0] is Verdict.HELD
    assert sources.hold("mail", A, 0.0) is not None
    assert sources.at_limit() == {"web": (A,), "mail": (B, A)}
    assert sources.judge(A, 0.0)[0] is Verdict.TOO_MANY_CONNECTIONS
    sources.release(cells[0])
    assert sources.at_limit() == {"mail": (B, A)}
    sources.configure("mail", SourceLimits(), 0.0)
    assert sources.at_limit() == {}
    assert sources.judge(A, 0.0)[0] is Verdict.HELD
    for cell in cells:
        sources.release(cell)
    small = table(SourceLimits(max_concurrent=1), capacity=1)
    cell = small.judge(A, 0.0)[1]
    small.release(cell)
    assert small.judge(B, 1.0) == (Verdict.HELD, cell)
    assert small.at_limit() == {"web": (B,)}, "the place is no longer that of A"


def test_a_place_that_is_anothers_now_is_not_taken_for_ones_own() -> None:
    store = SourceStore(1)
    one, two = successor(store, SourceLimits(1.0, 2.0), 0.0), successor(store, SourceLimits(1.0, 2.0), 0.0)
    assert verdicts(one, 1, 0.0) == ["admitted"]
    assert verdicts(two, 3, 1.0, B) == ["admitted", "admitted", "rate_limited"]
    assert verdicts(one, 1, 1.5) == ["table_full"]
    assert verdicts(one, 2, 3.0) == ["admitted", "admitted"]
    assert verdicts(two, 1, 3.0, B) == ["table_full"]


# ---- the lock


def test_who_does_not_get_the_lock_has_to_wait_or_look() -> None:
    sources = table(SourceLimits(SLOW, 2.0, 60 * SLOW, 3.0, penalty_s=60.0, max_concurrent=2))
    verdicts(sources, 1, 0.0)
    verdicts(sources, 3, 0.0, B)
    assert sources.store.locks.take_all()
    assert sources.decide("web", A, 0.0) is None
    assert sources.hold("web", A, 0.0) is None
    assert not sources.configure("web", BOXED, 0.0)
    assert not sources.count("web", A, 1, 1, 0.0, 0.0)
    assert sources.decide_unlocked("web", B, 1.0) == (Verdict.PENALTY_BOXED, -1)
    assert sources.decide_unlocked("web", b"new", 1.0) == (Verdict.TABLE_FULL, -1)
    verdict, cell = sources.decide_unlocked("web", A, 1.0)
    assert verdict is Verdict.HELD
    assert sources.decide_unlocked("web", A, 1.0) == (Verdict.TOO_MANY_CONNECTIONS, -1)
    sources.release(cell)
    with pytest.raises(UnknownListener):
        sources.decide_unlocked("other", A, 0.0)
    sources.store.locks.give_all_back()
    assert verdicts(sources, 2, 0.0) == ["held", "rate_limited"], "the look has taken no token"


def test_a_look_knows_empty_buckets() -> None:
    for limits, reason in (
        (SourceLimits(SLOW, 2.0), Verdict.RATE_LIMITED),
        (SourceLimits(per_minute=SLOW, per_minute_burst=2.0), Verdict.SUSTAINED_LIMITED),
    ):
        sources = table(limits)
        for verdict in (Verdict.ADMITTED, Verdict.ADMITTED, reason):
            assert sources.decide_unlocked("web", A, 0.0)[0] is verdict
            assert sources.judge(A, 0.0)[0] is verdict


# ---- exactness


@settings(max_examples=50, deadline=None)
@given(st.floats(0.5, 500.0), st.floats(1.0, 50.0), st.lists(st.floats(0.0, 0.5), min_size=1, max_size=300))
def test_never_more_than_burst_and_rate_allow_and_never_much_less(
    rate: float, burst: float, gaps: list[float]
) -> None:
    """Asked until it refuses at every step, a source gets all it may and not one more."""
    sources = table(SourceLimits(rate, burst), now=1e6)
    now, taken = 1e6, 0
    for gap in gaps:
        now += gap
        while admitted(sources, A, now):
            taken += 1
            assert taken <= burst + rate * (now - 1e6) + 1e-3
    assert admitted(sources, A, now + 1.0 / rate)


def test_the_same_over_a_long_time() -> None:
    """At five times its rate for an hour, on a clock that has run for a year."""
    start = 3.2e7
    sources = table(SourceLimits(10.0, 20.0), now=start)
    taken = sum(admitted(sources, A, start + step / 50) for step in range(50 * 3600))
    assert 0.999 * (20 + 10 * 3600) <= taken <= 20 + 10 * 3600


def test_time_that_goes_back_is_no_time() -> None:
    sources = table(PER_SECOND, now=100.0)
    verdicts(sources, 3, 100.0)
    assert verdicts(sources, 1, 0.0) == ["rate_limited"]
    assert verdicts(sources, 2, 100.5) == ["admitted", "rate_limited"]
    clock = TokenClock(5.0)
    clock.change(1.0, 1.0, 5.0)
    assert clock.read(1.0) == clock.read(5.0) == 0.0


# ---- room


def test_only_what_says_nothing_is_forgotten() -> None:
    sources = table(BOXED, capacity=3)
    verdicts(sources, 4, 0.0, b"boxed")
    verdicts(sources, 3, 0.0, b"empty")
    verdicts(sources, 1, 0.0, b"one")
    assert verdicts(sources, 1, 0.1, b"new") == ["table_full"]
    # 'one' lacks nothing from 0.5 s on, 'empty' from 1.5 s on
    assert verdicts(sources, 1, 4.0, b"new") == ["admitted"]
    assert verdicts(sources, 1, 4.0, b"newer") == ["admitted"]
    assert verdicts(sources, 1, 4.0, b"newest") == ["table_full"]
    assert len(sources) == 3
    assert verdicts(sources, 1, 59.0, b"boxed") == ["penalty_boxed"]


def test_a_flood_of_addresses_resets_nobody() -> None:
    """A source keeps its empty bucket and its penalty however many others come, and the table stays in bounds."""
    draw = random.Random(1)
    sources = table(SourceLimits(1.0, 2.0, 6.0, 4.0, penalty_s=30.0), capacity=500)
    assert verdicts(sources, 3, 0.0) == ["admitted", "admitted", "rate_limited"]
    now, room = 0.0, 0
    while now < 29.0:
        now += 0.001
        verdict, _ = sources.judge(draw.randbytes(8), now)
        assert verdict in (Verdict.ADMITTED, Verdict.TABLE_FULL)
        room += verdict is Verdict.ADMITTED
    assert verdicts(sources, 1, now) == ["penalty_boxed"]
    assert len(sources) <= sources.store.cells
    assert room > 1000  # slots are given on to others all the while


def test_everything_makes_way_in_the_end() -> None:
    limits = SourceLimits(1.0, 5.0, 60.0, 60.0, penalty_s=20.0)
    sources = table(limits, capacity=80)
    for index in range(80):
        verdicts(sources, 1 + index % 7, 0.0, index.to_bytes(4, "big"))
    assert verdicts(sources, 1, 0.0, b"more.") == ["table_full"]
    assert len(sources) == 80
    for index in range(80, 160):
        assert verdicts(sources, 6, 1000.0, index.to_bytes(4, "big")) == ["admitted"] * 5 + ["rate_limited"]
    assert len(sources) == 80
    assert verdicts(sources, 1, 1000.0, b"more.") == ["table_full"]


def test_a_listener_that_another_process_serves_has_its_sources_kept() -> None:
    store = SourceStore(2)
    web = successor(store, SourceLimits(1.0, 2.0), 0.0)
    mail = Table(store)
    assert mail.configure("mail", SourceLimits(1.0, 9.0), 0.0)
    verdicts(web, 2, 0.0)
    verdicts(web, 1, 0.0, B)
    assert mail.judge(b"new", 0.5, "mail")[0] is Verdict.TABLE_FULL
    assert mail.judge(b"new", 1.0, "mail")[0] is Verdict.ADMITTED, "in the place of B"
    assert verdicts(web, 2, 1.0) == ["admitted", "rate_limited"]


def test_a_store_of_a_thousand_has_room_for_a_thousand() -> None:
    draw = random.Random(5)
    sources = table(PER_SECOND, capacity=20_000)
    found = {sources.judge(draw.randbytes(4 + number % 13), 0.0)[0] for number in range(20_000)}
    assert found == {Verdict.ADMITTED}
    assert len(sources) == 20_000


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.0, 3.0), st.integers(0, 12), st.sampled_from(["decide", "decide", "limits"])),
        max_size=150,
    ),
    st.integers(2, 20),
)
def test_a_small_table_decides_like_an_endless_one(
    steps: list[tuple[float, int, str]], capacity: int
) -> None:
    """Eviction shows in nothing but TABLE_FULL, which takes nothing and boxes nobody."""
    limits = [
        SourceLimits(1.0, 2.0, 20.0, 4.0, penalty_s=4.0),
        SourceLimits(3.0, 1.0, 60.0, 9.0, penalty_s=2.0),
    ]
    small, endless = table(limits[0], capacity), table(limits[0], 10_000)
    now = 0.0
    for gap, number, action in steps:
        now += gap
        key = bytes([number])
        if action == "decide":
            verdict, _ = small.judge(key, now)
            if verdict is not Verdict.TABLE_FULL:
                assert verdict is endless.judge(key, now)[0]
            else:
                assert len(small) == capacity
        else:
            for sources in (small, endless):
                sources.configure("web", limits[number % 2], now)


# ---- what survives the process


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 3.0), st.integers(0, 5), st.sampled_from(["decide", "count", "limits", "kill"])
        ),
        max_size=120,
    )
)
def test_the_next_process_goes_on_as_if_the_last_one_lived(steps: list[tuple[float, int, str]]) -> None:
    limits = [SourceLimits(1.0, 2.0, 20.0, 4.0, penalty_s=4.0), SourceLimits(3.0, 1.0, penalty_s=2.0)]
    store = SourceStore(1000)
    mortal, immortal = successor(store, limits[0], 0.0), table(limits[0])
    now = 0.0
    for gap, number, action in steps:
        now += gap
        key = bytes([number])
        if action == "kill":
            mortal = successor(store, limits[0], now)
        elif action == "count":
            for sources in (mortal, immortal):
                sources.count("web", key, number, number // 2, now - gap, now)
        elif action == "limits":
            limits.reverse()
            for sources in (mortal, immortal):
                sources.configure("web", limits[0], now)
        assert mortal.judge(key, now) == immortal.judge(key, now)


def test_a_listener_is_unknown_until_it_is_configured() -> None:
    store = SourceStore(10)
    verdicts(successor(store, PER_SECOND, 0.0), 3, 0.0)
    made = Table(store)
    assert len(made) == 1
    with pytest.raises(UnknownListener):
        made.decide("web", A, 1.0)
    made.configure("mail", PER_SECOND, 1.0)
    assert made.judge(A, 1.0, "mail")[0] is Verdict.ADMITTED
    made.configure("web", PER_SECOND, 1.0)
    assert verdicts(made, 3, 1.0) == ["admitted", "admitted", "rate_limited"]


def test_a_changed_rate_is_known_to_the_next_process_too() -> None:
    store = SourceStore(10)
    first = successor(store, PER_SECOND, 0.0)
    verdicts(first, 3, 0.0)
    first.configure("web", SourceLimits(100.0, 3.0), 10.0)
    assert verdicts(first, 4, 10.0) == ["admitted"] * 3 + ["rate_limited"]
    second = successor(store, SourceLimits(100.0, 3.0), 10.01)
    assert verdicts(second, 2, 10.01) == ["admitted", "rate_limited"]


def test_the_rates_of_the_newest_version_hold_for_all() -> None:
    store = SourceStore(10)
    one, two = Table(store), Table(store)
    assert one.configure("web", SourceLimits(100.0, 3.0), 0.0, 7)
    assert two.configure("web", SourceLimits(1.0, 3.0), 0.0, 6)
    assert verdicts(one, 4, 0.0) == verdicts(two, 4, 0.0, B) == ["admitted"] * 3 + ["rate_limited"]
    assert verdicts(two, 4, 0.03, B) == ["admitted"] * 3 + ["rate_limited"]
    assert two.configure("web", SourceLimits(1.0, 3.0), 0.03, 8)
    assert verdicts(one, 4, 1.03, B) == ["admitted", "rate_limited", "rate_limited", "rate_limited"]
    assert one.configure("web", SourceLimits(1.0, 3.0), 1.03, 8)
    assert verdicts(one, 4, 2.03, B) == ["admitted", "rate_limited", "rate_limited", "rate_limited"]


def test_a_process_that_is_killed_at_any_moment_leaves_a_table_that_can_be_read() -> None:
    """No source that was refused before the kill is let in after it."""
    limits = SourceLimits(0.001, 2.0, penalty_s=600.0)
    for pause in (0.002, 0.005, 0.011, 0.02, 0.05):
        store = SourceStore(20_000)
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            made = successor(store, limits, 0.0)
            for number in range(20_000):
                key = number.to_bytes(4, "big")
                if verdicts(made, 3, 0.0, key)[-1] == "rate_limited":
                    os.write(tell, key)
            os._exit(0)
        os.close(tell)
        time.sleep(pause)  # the moment of the kill
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with open(told, "rb") as reader:
            refused = reader.read()
        after = successor(store, limits, 1.0)
        for at in range(0, len(refused) - 3, 4):
            assert verdicts(after, 1, 1.0, refused[at : at + 4]) == ["penalty_boxed"]
        assert verdicts(after, 1, 1.0, b"another") == ["admitted"]
        assert len(after) >= len(refused) // 4


def test_listeners_that_do_not_fit() -> None:
    sources = table(PER_SECOND)
    with pytest.raises(ValueError, match="no room"):
        sources.configure("x" * 511, PER_SECOND, 0.0)
    for number in range(MAX_LISTENERS - 1):
        sources.configure(f"listener {number}", PER_SECOND, 0.0)
    with pytest.raises(ValueError, match="no room"):
        sources.configure("one more", PER_SECOND, 0.0)
    with pytest.raises(ValueError, match="room for one"):
        SourceStore(0)


# ---- connections that were decided on elsewhere


def test_connections_that_were_not_asked_for_count_as_if_they_had_been() -> None:
    sources = table(SourceLimits(2.0, 4.0, penalty_s=10.0))
    sources.count("web", A, 3, 3, 0.0, 0.0)
    assert verdicts(sources, 2, 0.0) == ["admitted", "rate_limited"]
    # Nine in two seconds: four from the bucket and four made meanwhile are not enough, ...
    sources.count("web", B, 9, 8, 100.0, 102.0)
    assert verdicts(sources, 1, 102.0, B) == ["penalty_boxed"]
    # ... eight are, but nothing is left.
    sources.count("web", b"C", 8, 8, 100.0, 102.0)
    assert verdicts(sources, 2, 102.5, b"C") == ["admitted", "rate_limited"]
    with pytest.raises(UnknownListener):
        sources.count("other", A, 1, 1, 0.0, 0.0)


def test_what_was_let_in_without_a_token_is_owed() -> None:
    """Refused attempts leave the bucket empty; those that were let in have to be paid back, up to a burst."""
    for let_in, paid_after in ((0, 0.5), (4, 0.5), (5, 1.0), (7, 2.0), (8, 2.5), (100, 2.5)):
        sources = table(SourceLimits(2.0, 4.0))
        sources.count("web", A, 100, let_in, 0.0, 0.0)
        assert verdicts(sources, 1, paid_after - 0.01) == ["rate_limited"]
        assert verdicts(sources, 2, paid_after) == ["admitted", "rate_limited"]
    sources = table(SourceLimits(per_minute=60.0, per_minute_burst=3.0))
    sources.count("web", A, 4, 4, 0.0, 0.0)
    assert verdicts(sources, 1, 1.9) == ["sustained_limited"]
    assert verdicts(sources, 1, 2.0) == ["admitted"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 2.0), st.integers(0, 4), st.booleans()), max_size=100))
def test_in_the_long_run_no_more_are_let_in_than_the_rate_allows(
    steps: list[tuple[float, int, bool]],
) -> None:
    """Whoever decides: of those that were let in alone, at most a burst is not paid for at any time."""
    rate, burst = 2.0, 4.0
    sources = table(SourceLimits(rate, burst))
    now, let_in = 0.0, 0
    for gap, number, alone in steps:
        now += gap
        if alone:
            owed = max(0.0, let_in - burst - rate * now)
            number = min(number, int(burst - owed))
            sources.count("web", A, number, number, now, now)
            let_in += number
        else:
            let_in += sum(admitted(sources, A, now) for _ in range(number))
        assert let_in <= 2 * burst + rate * now + 1e-3
    # By now everything is paid for.
    now += 2 * burst / rate
    while admitted(sources, A, now):
        let_in += 1
    assert let_in <= burst + rate * now + 1e-3


def test_who_stays_in_the_box_is_told_by_reports_too() -> None:
    """Refused elsewhere for a minute at five times its rate, a source stays in; at half its rate it comes out."""
    for rate, verdict in ((10.0, "penalty_boxed"), (1.0, "admitted")):
        sources = table(SourceLimits(2.0, 1.0, penalty_s=10.0))
        verdicts(sources, 2, 0.0)
        for step in range(1, 30):
            sources.count("web", A, int(rate * 2), 0, step * 2.0 - 1.9, step * 2.0)
        assert verdicts(sources, 1, 60.5) == [verdict]


def test_reports_take_from_the_second_bucket_what_passed_the_first() -> None:
    sources = table(SourceLimits(1.0, 5.0, per_minute=60.0, per_minute_burst=100.0))
    sources.count("web", A, 50, 0, 0.0, 0.0)
    sources.configure("web", SourceLimits(per_minute=60.0, per_minute_burst=100.0), 0.0)
    assert verdicts(sources, 96, 0.0) == ["admitted"] * 95 + ["sustained_limited"]


def test_who_is_blocked() -> None:
    limits = {
        "web": SourceLimits(1.0, 2.0, 60.0, 3.0, penalty_s=30.0, max_concurrent=2),
        "mail": SourceLimits(10.0, 10.0, 6.0, 1.0),
        "other": SourceLimits(1.0, 1.0),
    }
    sources = table(limits["web"])
    verdicts(sources, 3, 0.0, b"boxed")
    verdicts(sources, 2, 10.0, b"empty")
    verdicts(sources, 1, 10.0, b"quiet")
    for name in ("mail", "other"):
        sources.configure(name, limits[name], 10.0)
        sources.judge(b"slow", 10.0, name)
    del limits["other"]
    found = {
        (entry.listener, entry.key, entry.verdict): entry.seconds
        for part in census.blocked(sources.store, limits, 10.25)
        for entry in part
    }
    assert found == {
        ("web", b"boxed", Verdict.PENALTY_BOXED): pytest.approx(19.75),
        ("web", b"empty", Verdict.RATE_LIMITED): pytest.approx(0.75, abs=1e-4),
        ("mail", b"slow", Verdict.SUSTAINED_LIMITED): pytest.approx(9.75, abs=1e-3),
    }


# ---- cost

_LARGE = """
from symphony.protection import census
from symphony.protection.hold_cells import HoldCells, Holds
from symphony.protection.penalty import SourceLimits
from symphony.protection.source_store import SourceStore
from symphony.protection.sources import SourceTable
store = SourceStore()
table = SourceTable(store, Holds(0, [HoldCells()]))
assert table.configure("0.0.0.0:443", SourceLimits(10.0, 20.0, 60.0, 100.0, 600.0, 5), 0.0)
for index in range(250_000):
    key = (index * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big")
    assert table.decide("0.0.0.0:443", key, index * 1e-6)[0] == "held"
assert sum(census.count(store)) == 250_000
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]))
"""


def test_a_store_for_a_million_sources_in_memory() -> None:
    """The whole process at its highest, when all of the memory is in use, and not all of the places."""
    done = subprocess.run(
        [sys.executable, "-c", _LARGE], capture_output=True, text=True, timeout=100, check=True
    )
    assert int(done.stdout) < 300_000


def test_cost_of_a_decision() -> None:
    sources = table(SourceLimits(10.0, 20.0, 60.0, 100.0, 600.0, 5), capacity=100_000)
    keys = [index.to_bytes(4, "big") for index in range(2000)]

    def seconds(now: float) -> float:
        start = time.thread_time()
        for key in keys:
            sources.release(sources.judge(key, now)[1])
        return (time.thread_time() - start) / len(keys)

    assert min(seconds(turn * 3.0) for turn in range(6)) < 20e-6
