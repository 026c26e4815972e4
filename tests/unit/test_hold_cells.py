"""Open connections counted where all acceptors can read them."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symphony.protection import hold_cells
from symphony.protection.hold_cells import LOOK_EVERY_S, HoldCells, Holds

CELLS = 2048


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.booleans()), max_size=200))
def test_the_count_is_over_all_pages(steps: list[tuple[int, int, bool]]) -> None:
    pages = [HoldCells(CELLS) for _ in range(3)]
    for page in pages:
        page.claim()
    acceptors = [Holds(own, pages) for own in range(3)]
    held: Counter[tuple[int, int]] = Counter()
    for own, cell, takes in steps:
        if takes:
            fits = sum(held[acceptor, cell] for acceptor in range(3)) < 4
            expected = sum(held[acceptor, cell] for acceptor in range(3)) + 1 if fits else 0
            assert acceptors[own].take(cell, 4, 0.0) == expected
            held[own, cell] += fits
        elif held[own, cell]:
            acceptors[own].give_back(cell)
            held[own, cell] -= 1
        for other in range(6):
            expected = sum(held[acceptor, other] for acceptor in range(3))
            assert all(each.count(other) == expected for each in acceptors)
            assert all(each.is_free(other, 0.0) is (not expected) for each in acceptors)


def run(page: HoldCells, cell: int, times: int, *, then_wait: bool = False) -> int:
    """A process that owns `page` and holds something; return its id, when it does."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            page.claim()
            holds = Holds(0, [page])
            for _ in range(times):
                holds.add(cell)
            os.write(told, b"!")
            if then_wait:
                time.sleep(60.0)
        finally:
            os._exit(0)
    os.close(told)
    assert os.read(ready, 1) == b"!"
    os.close(ready)
    return pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_what_another_process_holds_counts_until_it_is_killed() -> None:
    pages = [HoldCells(CELLS), HoldCells(CELLS)]
    pages[0].claim()
    own = Holds(0, pages)
    pid = run(pages[1], 7, 3, then_wait=True)
    try:
        assert own.take(7, 4, 1.0)
        assert not own.take(7, 4, 1.0)
        assert not own.take(7, 4, 2.0)
        assert own.count(7) == 4
    finally:
        end(pid)
    assert not own.take(7, 4, 2.0 + LOOK_EVERY_S / 2), "it is not looked every time"
    assert own.take(7, 4, 2.0 + 1.1 * LOOK_EVERY_S)
    assert own.count(7) == 2, "what the dead one held is gone"


def test_what_a_dead_process_held_keeps_no_place() -> None:
    pages = [HoldCells(CELLS), HoldCells(CELLS)]
    pages[0].claim()
    own = Holds(0, pages)
    os.waitpid(run(pages[1], 7, 3), 0)
    assert own.count(7) == 3
    assert own.is_free(7, 1.0)
    assert own.is_free(8, 1.0)


def test_a_successor_holds_nothing_of_its_predecessor() -> None:
    page = HoldCells(CELLS)
    end(run(page, 7, 3, then_wait=True))
    assert Holds(0, [page]).count(7) == 3
    page.claim()
    assert Holds(0, [page]).count(7) == 0
    Holds(0, [page]).add(7)
    page.claim()  # of the same process
    assert Holds(0, [page]).count(7) == 0


def test_a_page_of_a_living_process_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold_cells, "_CLAIMED_WITHIN_S", 0.02)
    page = HoldCells(CELLS)
    pid = run(page, 7, 3, then_wait=True)
    try:
        assert not page.clear_if_left()
        with pytest.raises(RuntimeError, match="belongs to another process"):
            page.claim()
        assert page.cells[7] == 3
    finally:
        end(pid)
    page.claim()


def test_by_default_there_is_a_cell_for_each_place_of_a_store() -> None:
    from symphony.protection.source_store import SourceStore

    assert SourceStore().cells == hold_cells.CELLS == len(HoldCells().cells)
