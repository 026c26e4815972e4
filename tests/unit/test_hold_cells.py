"""Open connections counted where all acceptors can read them."""

from __future__ import annotations

import os
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from symphony.protection.hold_cells import CELLS, HoldCells, SharedHolds


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.booleans()), max_size=200))
def test_the_count_is_over_all_pages(steps: list[tuple[int, int, bool]]) -> None:
    pages = [HoldCells() for _ in range(3)]
    acceptors = [SharedHolds(own, pages) for own in range(3)]
    held: Counter[tuple[int, bytes]] = Counter()
    for own, source, takes in steps:
        key = bytes([source])
        if takes:
            acceptors[own].take("web", key)
            held[own, key] += 1
        elif held[own, key]:
            acceptors[own].give_back("web", key)
            held[own, key] -= 1
        for other in range(6):
            expected = sum(held[acceptor, bytes([other])] for acceptor in range(3))
            assert all(each.count("web", bytes([other])) == expected for each in acceptors)
    assert acceptors[0].count("mail", b"\0") == 0


def test_sources_that_share_cells_are_never_counted_too_low_and_seldom_too_high() -> None:
    draw = random.Random(3)
    holds = SharedHolds(0, [HoldCells()])
    keys = [draw.randbytes(8) for _ in range(10_000)]
    for key in keys:
        holds.take("web", key)
    counts = [holds.count("web", key) for key in keys]
    assert min(counts) == 1
    assert sum(count > 1 for count in counts) < 200
    for key in keys:
        holds.give_back("web", key)
    assert not any(holds.count("web", key) for key in keys)
    assert len(holds._cells) == 2 * CELLS


def test_another_process_counts_into_the_same_cells() -> None:
    pages = [HoldCells(), HoldCells()]
    pid = os.fork()
    if pid == 0:
        other = SharedHolds(1, pages)
        other.doubt_until(50.0)
        other.take("web", b"key")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    own = SharedHolds(0, pages)
    assert own.count("web", b"key") == 1
    assert own.in_doubt(49.0) and not own.in_doubt(50.0)
    pages[1].clear()
    assert own.count("web", b"key") == 0
    assert not own.in_doubt(49.0)
