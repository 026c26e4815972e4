"""Token buckets, and tables of them, with the time passed in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.protection.token_bucket import BucketTable, TokenBucket


def test_starts_full_and_empties() -> None:
    bucket = TokenBucket(rate=2.0, burst=3.0, now=10.0)
    assert [bucket.take(10.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(10.0) == pytest.approx(0.5)
    assert bucket.take(10.2) == pytest.approx(0.3)


def test_a_token_is_there_after_the_time_told() -> None:
    for rate in (0.1, 0.3, 3.0, 7.0, 1e6):
        bucket = TokenBucket(rate, 1.0, 0.0)
        now = 0.0
        for _ in range(1000):
            assert bucket.take(now) == 0.0
            wait = bucket.take(now)
            assert wait > 0.0
            now += wait


def test_refills_up_to_the_burst_only() -> None:
    bucket = TokenBucket(rate=10.0, burst=2.0, now=0.0)
    assert bucket.take(0.0) == bucket.take(0.0) == 0.0
    assert [bucket.take(1000.0) == 0.0 for _ in range(3)] == [True, True, False]


def test_time_that_goes_back_is_no_time() -> None:
    bucket = TokenBucket(rate=1.0, burst=1.0, now=100.0)
    assert bucket.take(100.0) == 0.0
    assert bucket.take(50.0) == pytest.approx(1.0)
    assert bucket.take(101.0) == 0.0


def test_full_at() -> None:
    bucket = TokenBucket(rate=2.0, burst=4.0, now=0.0)
    assert bucket.full_at == 0.0
    bucket.take(1.0)
    assert bucket.full_at == pytest.approx(1.5)


def test_other_limits_keep_what_is_there() -> None:
    bucket = TokenBucket(rate=1.0, burst=10.0, now=0.0)
    for _ in range(8):
        bucket.take(0.0)
    bucket.change(rate=5.0, burst=20.0, now=1.0)  # 3 tokens at the old rate
    assert bucket.tokens == pytest.approx(3.0)
    bucket.change(rate=5.0, burst=2.0, now=1.0)
    assert [bucket.take(1.0) == 0.0 for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("rate", "burst"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.9), (float("nan"), 1.0), (1.0, float("nan"))]
)
def test_limits_that_make_no_bucket(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="expected above 0 and at least 1"):
        TokenBucket(rate, burst, 0.0)
    table = BucketTable(1)
    with pytest.raises(ValueError, match="expected above 0"):
        table.take("a", rate, burst, 0.0)
    assert len(table) == 0


@given(st.floats(0.1, 1000), st.floats(1, 100), st.lists(st.floats(0, 2), min_size=1, max_size=200))
def test_never_more_than_burst_and_rate_allow(rate: float, burst: float, gaps: list[float]) -> None:
    bucket = TokenBucket(rate, burst, 0.0)
    now, taken = 0.0, 0
    for gap in gaps:
        now += gap
        taken += bucket.take(now) == 0.0
        assert taken <= burst + rate * now + 1e-6


def test_table_keeps_keys_apart_and_takes_new_limits() -> None:
    table = BucketTable(10)
    assert table.take("a", 1.0, 1.0, 0.0) == 0.0
    assert table.take("b", 1.0, 1.0, 0.0) == 0.0
    assert table.take("a", 1.0, 1.0, 0.0) > 0.0
    assert table.take("a", 1000.0, 5.0, 1.0) == 0.0
    assert len(table) == 2


def test_table_starts_a_bucket_with_what_it_is_told() -> None:
    table = BucketTable(10)
    assert table.take("a", 1.0, 4.0, 0.0, initial=0.5) == pytest.approx(0.5)
    assert table.take("a", 1.0, 4.0, 0.5, initial=0.5) == 0.0


def test_table_forgets_full_buckets_only() -> None:
    table = BucketTable(3)
    for key in ("a", "b", "c"):
        assert table.take(key, 1.0, 2.0, 0.0) == 0.0  # each is full again at 1.0
    assert table.take("b", 1.0, 2.0, 0.5) == 0.0  # and b at 2.0
    assert table.take("d", 1.0, 2.0, 0.5) == pytest.approx(0.5)  # no room before 1.0
    assert "d" not in table
    assert table.take("d", 1.0, 2.0, 1.0) == 0.0
    assert table.take("e", 1.0, 2.0, 1.0) == 0.0
    assert "b" in table and len(table) == 3
    assert table.take("f", 1.0, 2.0, 1.0) == pytest.approx(1.0)


@given(st.lists(st.tuples(st.integers(0, 8), st.floats(0, 1)), max_size=300))
def test_a_bounded_table_grants_no_more_than_an_unbounded_one(steps: list[tuple[int, float]]) -> None:
    small, large = BucketTable(3), BucketTable(100)
    now = 0.0
    granted = [[0, 0] for _ in range(9)]
    for key, gap in steps:
        now += gap
        for at, table in enumerate((small, large)):
            granted[key][at] += table.take(str(key), 1.0, 2.0, now) == 0.0
        assert len(small) <= 3
        assert granted[key][0] <= 2 + now + 1e-6
    assert len(small._full_times) == len(small)


def test_many_new_keys_are_cheap_when_nothing_is_full() -> None:
    table = BucketTable(1000)
    for number in range(1000):
        table.take(f"old{number}", 0.001, 1.0, 0.0)
    for number in range(20000):
        assert table.take(f"new{number}", 0.001, 1.0, 1.0) > 0.0
    assert len(table) == 1000
