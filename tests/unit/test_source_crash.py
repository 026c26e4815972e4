"""Several processes decide about the same sources, and are killed at any point of it."""

from __future__ import annotations

import mmap
import os
import random
import signal
import time

import pytest

from symphony.protection.hold_cells import HoldCells, Holds
from symphony.protection.penalty import SourceLimits, Verdict
from symphony.protection.source_store import SourceStore
from symphony.protection.sources import SourceTable

SLOW = 0.0001
SOURCES = 200
"""In a store for fewer: there is not always room for a new one."""


class Crowd:
    """`count` processes that let in and let go connections of random sources as fast as they can.

    `totals` has how many each has let in of the source that is limited, and `most` how many were ever open at once.
    """

    def __init__(self, count: int, limits: SourceLimits, capacity: int = 100) -> None:
        self.limits = limits
        self.store = SourceStore(capacity)
        self.pages = [HoldCells(self.store.cells) for _ in range(count + 1)]
        self.totals = memoryview(mmap.mmap(-1, 4096)).cast("Q")
        self.pids = [0] * count
        self.pages[count].claim()
        self.table = SourceTable(self.store, Holds(count, self.pages))
        assert self.table.configure("web", limits, time.monotonic(), 1)

    def start(self, index: int, sources: int, seed: int) -> None:
        self.pids[index] = os.fork()
        if self.pids[index] == 0:
            try:
                self._decide(index, sources, seed)
            finally:
                os._exit(1)

    def _decide(self, index: int, sources: int, seed: int) -> None:
        draw = random.Random(seed)
        self.pages[index].claim()
        table = SourceTable(self.store, Holds(index, self.pages))
        while not table.configure("web", self.limits, time.monotonic(), 1):
            pass
        held: list[int] = []
        while True:
            number = draw.randrange(sources)
            found = table.decide("web", number.to_bytes(4, "big"), time.monotonic())
            if found is not None and found[0] in (Verdict.HELD, Verdict.ADMITTED):
                if not number:
                    self.totals[index] += 1
                held.append(found[1])
            if len(held) > 3:
                table.release(held.pop(draw.randrange(len(held))))

    def kill(self, index: int) -> None:
        os.kill(self.pids[index], signal.SIGKILL)
        ended = os.waitstatus_to_exitcode(os.waitpid(self.pids[index], 0)[1])
        assert ended == -signal.SIGKILL, "it had not ended by itself"


@pytest.mark.parametrize("count", [1, 2, 4])
def test_no_token_is_given_twice_and_none_is_lost_but_one_for_each_that_was_killed(count: int) -> None:
    burst = 200_000.0
    crowd = Crowd(count, SourceLimits(SLOW, burst))
    draw = random.Random(count)
    for index in range(count):
        crowd.start(index, 1, index)
    kills = 40
    try:
        for kill in range(kills):
            time.sleep(draw.random() * 0.01)
            index = kill % count
            crowd.kill(index)
            crowd.start(index, 1, kill)
    finally:
        for index in range(count):
            crowd.kill(index)
    let_in = sum(crowd.totals[:count])
    assert let_in > kills
    left = 0
    while (found := crowd.table.decide("web", bytes(4), time.monotonic())) == (Verdict.ADMITTED, -1):
        left += 1
    assert found is not None and found[0] is Verdict.RATE_LIMITED
    assert burst - kills - count <= let_in + left <= burst


@pytest.mark.parametrize("count", [2, 4])
def test_what_is_open_is_never_too_much_and_nothing_stays_open(count: int) -> None:
    most = 3
    crowd = Crowd(count, SourceLimits(max_concurrent=most))
    draw = random.Random(count)
    for index in range(count):
        crowd.start(index, SOURCES, index)
    try:
        for kill in range(40):
            until = time.monotonic() + draw.random() * 0.01
            while time.monotonic() < until:
                for cell in range(crowd.store.cells):
                    # Each is counted for a moment before it is refused.
                    assert sum(page.cells[cell] for page in crowd.pages) <= most + count
            crowd.kill(kill % count)
            crowd.start(kill % count, SOURCES, kill)
    finally:
        for index in range(count):
            crowd.kill(index)
    # Everybody who was there is gone: each source may have all of its own again, and there is room.
    now = time.monotonic()
    cells = []
    for number in range(SOURCES // 4):
        for attempt in range(most + 1):
            found = crowd.table.decide("web", number.to_bytes(4, "big"), now + 1.0 + number)
            assert found is not None and found[0] is (
                Verdict.HELD if attempt < most else Verdict.TOO_MANY_CONNECTIONS
            )
            cells += [found[1]] if attempt < most else []
    for cell in cells:
        crowd.table.release(cell)
    assert not any(page.cells[cell] for page in crowd.pages for cell in range(crowd.store.cells))
