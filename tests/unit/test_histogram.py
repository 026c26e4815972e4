"""Histograms: where durations are counted, and what is read out of them again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.observe.histogram import BOUNDS_S, WORDS, Histogram, observe, read


def filled(durations: list[float], at: int = 3) -> Histogram:
    words = memoryview(bytearray((at + WORDS + 2) * 8)).cast("q")
    for duration in durations:
        observe(words, at, duration)
    assert not any(words[:at]) and not any(words[at + WORDS :])
    return read(words, at)


def test_bounds_belong_to_the_bucket_below() -> None:
    """As Prometheus has it: `le`."""
    assert filled([BOUNDS_S[0]]).counts[0] == 1
    assert filled([BOUNDS_S[0] + 1e-9]).counts[1] == 1
    assert filled([99.0]).counts[-1] == 1


def test_nothing() -> None:
    assert filled([]) == Histogram()
    assert Histogram().quantile(0.5) is None


@given(st.lists(st.floats(0.0, 20.0), max_size=50), st.lists(st.floats(0.0, 20.0), max_size=50))
def test_sums_and_differences(first: list[float], second: list[float]) -> None:
    a, b, both = filled(first), filled(second), filled(first + second)
    assert a + b == both
    assert both - a == b
    assert both.count == len(first) + len(second)
    assert both.sum_us == pytest.approx(sum(first + second) * 1e6, abs=len(first + second))


@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=100), st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_in_the_bucket_of_the_true_one(durations: list[float], part: float) -> None:
    found = filled(durations).quantile(part)
    assert found is not None
    position = min(len(durations) - 1, max(0, round(part * len(durations) + 0.4999999) - 1))
    true = sorted(durations)[position]
    index = next(at for at, bound in enumerate(BOUNDS_S) if true <= bound)
    low = BOUNDS_S[index - 1] if index else 0.0
    assert low <= found <= BOUNDS_S[index]
