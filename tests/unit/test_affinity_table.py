"""What is remembered about clients, by all acceptors together."""

from __future__ import annotations

import os
import random

from hypothesis import given
from hypothesis import strategies as st

from symphony.routing.affinity import AffinityTable

TTL = 60_000
NOW = 1_000_000
keys = st.integers(0, 2**64 - 1)
numbers = st.integers(0, 65_535)


@given(keys, numbers, st.integers(0, 2**40))
def test_what_was_remembered_is_recalled(key: int, number: int, now: int) -> None:
    table = AffinityTable(4)
    assert table.recall(key, now, TTL) == -1
    table.remember(key, number, now)
    assert table.recall(key, now, TTL) == number
    table.remember(key, 7, now)
    assert table.recall(key, now, TTL) == 7


def test_idle_entries_are_forgotten_and_used_ones_are_not() -> None:
    table = AffinityTable(4)
    table.remember(1 << 60, 5, NOW)
    table.remember(2 << 60, 6, NOW)
    now = NOW
    for _ in range(50):
        now += TTL // 3
        assert table.recall(1 << 60, now, TTL) == 5
    assert table.recall(2 << 60, now, TTL) == -1
    assert table.recall(1 << 60, now + TTL + 500, TTL) == -1


def test_neighbours_in_a_full_bucket_make_room_oldest_first() -> None:
    table = AffinityTable(0)
    ttl = 10 * TTL  # so long that being asked for does not yet count as use
    for number in range(8):
        table.remember(number + 1 << 40, number, NOW + number * 1000)
    assert [table.recall(number + 1 << 40, NOW + 8000, ttl) for number in range(8)] == list(range(8))
    table.remember(99 << 40, 99, NOW + 9000)
    assert [table.recall(number + 1 << 40, NOW + 9000, ttl) for number in range(8)] == [-1, *range(1, 8)]
    assert table.recall(99 << 40, NOW + 9000, ttl) == 99


def test_most_of_what_fits_is_kept() -> None:
    table = AffinityTable(10)  # 8192 entries
    chance = random.Random(3)
    entries = {chance.getrandbits(64): chance.randrange(65_536) for _ in range(4096)}
    for key, number in entries.items():
        table.remember(key, number, NOW)
    recalled = [table.recall(key, NOW, TTL) for key in entries]
    assert all(found in (-1, number) for found, number in zip(recalled, entries.values(), strict=True))
    assert recalled.count(-1) < 4096 * 0.03


def test_another_process_recalls_it() -> None:
    table = AffinityTable(4)
    pid = os.fork()
    if pid == 0:
        try:
            table.remember(12345, 9, NOW)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert table.recall(12345, NOW, TTL) == 9
