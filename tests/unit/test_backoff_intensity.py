"""Back-off, restart intensity, the times to stop, and what a specification refuses."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.action import Exit
from supervisor.backoff import Backoff
from supervisor.intensity import Intensity
from supervisor.patience import LATE_S, LEAST_GRACE_S, Vigil, stop_times
from supervisor.spec import BackoffSpec, GroupSpec, SpecError
from tests.support.tree_driver import child


def test_the_first_restart_does_not_wait_and_later_ones_double_up_to_the_limit() -> None:
    backoff = Backoff(BackoffSpec(first_s=0.1, limit_s=1.0, reset_after_s=5.0))
    assert [backoff.next_delay(0.0) for _ in range(7)] == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_child_that_was_up_long_enough_begins_anew() -> None:
    backoff = Backoff(BackoffSpec(first_s=0.1, limit_s=1.0, reset_after_s=5.0))
    for _ in range(4):
        backoff.next_delay(4.99)
    assert backoff.next_delay(5.0) == 0.0
    assert backoff.next_delay(0.0) == 0.1
    backoff.clear()
    assert backoff.next_delay(0.0) == 0.0


def test_back_off_survives_weeks_of_failures() -> None:
    backoff = Backoff(BackoffSpec(first_s=0.05, limit_s=2.0))
    for _ in range(5000):
        delay = backoff.next_delay(0.0)
    assert delay == 2.0


@given(st.integers(0, 6), st.lists(st.floats(0, 3), max_size=40))
def test_intensity_counts_what_lies_within_the_period(limit: int, gaps: list[float]) -> None:
    window = Intensity(limit, 4.0)
    now = 100.0
    times: list[float] = []
    for gap in gaps:
        now += gap
        times.append(now)
        expected = sum(1 for at in times if at >= now - 4.0) > limit
        assert window.add(now) is expected


def test_both_ends_of_the_period_belong_to_it() -> None:
    window = Intensity(1, 5.0)
    assert [window.add(at) for at in (0.0, 5.0, 10.1, 15.2)] == [False, True, False, False]
    window.clear()
    assert not window.add(15.2)


def test_no_intensity_allows_no_restart() -> None:
    assert Intensity(0, 1.0).add(7.0)


@pytest.mark.parametrize(
    ("shutdown_s", "remaining_s", "expected"),
    [
        (5.0, None, (4.5, 5.0)),
        (0.4, None, (0.2, 0.4)),
        (0.0, None, (0.0, 0.0)),
        (0.0, 3.0, (0.0, 0.0)),
        (30.5, 30.0, (30.0, 30.5)),
        (5.0, 2.0, (2.0, 2.5)),
        (5.0, -3.0, (LEAST_GRACE_S, LEAST_GRACE_S + 0.5)),
        (0.4, 0.0, (0.2, 0.4)),
        (math.inf, None, (math.inf, math.inf)),
        (math.inf, 7.0, (7.0, 7.5)),
    ],
)
def test_a_child_is_told_less_than_the_supervisor_waits(
    shutdown_s: float, remaining_s: float | None, expected: tuple[float, float]
) -> None:
    assert stop_times(child("a", shutdown_s=shutdown_s), remaining_s) == pytest.approx(expected)


@given(st.floats(0.001, 1000), st.none() | st.floats(-10, 1000))
def test_grace_is_always_shorter_than_patience_and_patience_than_the_spec(
    shutdown_s: float, remaining_s: float | None
) -> None:
    grace, allowed = stop_times(child("a", shutdown_s=shutdown_s), remaining_s)
    assert 0 < grace < allowed <= shutdown_s * 1.0001


def test_lost_time_is_told_once_and_only_when_it_is_much() -> None:
    vigil = Vigil()
    assert vigil.lost(50.0) == 0
    vigil.expect(10.0)
    assert vigil.lost(10.0 + LATE_S) == 0
    vigil.expect(10.0)
    assert vigil.lost(13.0) == 3.0
    assert vigil.lost(14.0) == 0
    vigil.expect(None)
    assert vigil.lost(1e9) == 0


@pytest.mark.parametrize(
    ("end", "text", "normal"),
    [
        (Exit(code=0), "exit code 0", True),
        (Exit(code=3), "exit code 3", False),
        (Exit(signal=9), "killed by SIGKILL", False),
        (Exit(signal=120), "killed by signal 120", False),
        (Exit(), "ended in an unknown way", False),
    ],
)
def test_ends_in_words(end: Exit, text: str, normal: bool) -> None:
    assert (str(end), end.normal) == (text, normal)


@pytest.mark.parametrize(
    "settings",
    [
        {"shutdown_s": -1.0},
        {"shutdown_s": math.nan},
        {"start_timeout_s": 0.0},
        {"start_timeout_s": math.nan},
        {"heartbeat_timeout_s": 0.0},
        {"heartbeat_timeout_s": -1.0},
        {"heartbeat_timeout_s": math.nan},
    ],
)
def test_a_child_with_impossible_times_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="times must be positive"):
        child("a", **settings)


def test_a_child_and_a_group_need_names() -> None:
    with pytest.raises(SpecError, match="name"):
        child("")
    with pytest.raises(SpecError, match="name"):
        GroupSpec("", ())


@pytest.mark.parametrize("settings", [{"intensity": -1}, {"period_s": 0.0}, {"period_s": math.nan}])
def test_a_group_with_an_impossible_intensity_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="intensity"):
        GroupSpec("g", (), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings", [{"first_s": 0.0}, {"first_s": 9.0}, {"reset_after_s": -1.0}, {"first_s": math.nan}]
)
def test_an_impossible_back_off_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="back-off"):
        BackoffSpec(**settings)


def test_names_are_unique_in_the_whole_tree() -> None:
    inner = GroupSpec("inner", (child("a"), child("b")))
    with pytest.raises(SpecError, match="unique in the tree: a, inner"):
        GroupSpec("outer", (child("a"), inner, GroupSpec("next", (GroupSpec("inner", ()),))))
