"""The timer wheel by the real clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from symphony.relay.timer_wheel import TICK_S, TimerWheel

LATE_S = 5.0  # by how much a busy machine may delay a test


class Entry:
    def __init__(self, action: Callable[[], None] = lambda: None) -> None:
        self.timer_tick = 0
        self.fired: list[float] = []
        self.action = action

    def on_timer(self) -> None:
        self.fired.append(time.monotonic())
        self.action()


class Wheel(TimerWheel):
    __slots__ = ("errors",)


@pytest.fixture
async def wheel() -> AsyncIterator[Wheel]:
    errors: list[BaseException] = []
    wheel = Wheel(asyncio.get_running_loop(), errors.append)
    wheel.errors = errors  # type: ignore[attr-defined]
    yield wheel


async def until(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_fires_late_rather_than_early(wheel: Wheel) -> None:
    delays = [0.0, 0.01, TICK_S, 0.12, 0.3]
    entries = [Entry() for _ in delays]
    began = time.monotonic()
    for entry, delay in zip(entries, delays, strict=True):
        wheel.schedule(entry, delay)
    assert len(wheel) == 5
    await until(lambda: all(entry.fired for entry in entries))
    for entry, delay in zip(entries, delays, strict=True):
        assert delay <= entry.fired[0] - began < delay + 3 * TICK_S + LATE_S
        assert entry.timer_tick == 0
    assert len(wheel) == 0
    await asyncio.sleep(3 * TICK_S)
    assert all(len(entry.fired) == 1 for entry in entries)


async def test_cancelled_and_rescheduled(wheel: Wheel) -> None:
    cancelled, moved, kept = Entry(), Entry(), Entry()
    began = time.monotonic()
    wheel.schedule(cancelled, 0.05)
    wheel.schedule(moved, 0.05)
    wheel.schedule(kept, 0.05)
    wheel.cancel(cancelled)
    wheel.schedule(moved, 0.4)
    assert len(wheel) == 2
    await until(lambda: moved.fired)
    assert cancelled.fired == [] and len(kept.fired) == 1
    assert moved.fired[0] - began >= 0.4 and len(moved.fired) == 1
    wheel.cancel(moved)  # not scheduled: nothing happens
    assert len(wheel) == 0


async def test_entry_that_schedules_itself_again(wheel: Wheel) -> None:
    entry = Entry()
    entry.action = lambda: wheel.schedule(entry, 0.05) if len(entry.fired) < 4 else None
    wheel.schedule(entry, 0.05)
    await until(lambda: len(entry.fired) == 4)
    await asyncio.sleep(3 * TICK_S)
    assert len(entry.fired) == 4
    gaps = [after - before for before, after in zip(entry.fired, entry.fired[1:], strict=False)]
    assert all(gap >= 0.045 for gap in gaps)


async def test_entry_cancelled_by_another_of_the_same_turn_does_not_fire(wheel: Wheel) -> None:
    entries = [Entry() for _ in range(10)]

    def cancel_the_rest() -> None:
        for entry in entries:
            wheel.cancel(entry)

    for entry in entries:
        entry.action = cancel_the_rest
        wheel.schedule(entry, 0.05)
    await until(lambda: any(entry.fired for entry in entries))
    await asyncio.sleep(3 * TICK_S)
    assert sum(len(entry.fired) for entry in entries) == 1


async def test_entry_moved_by_another_of_the_same_turn_fires_at_its_new_time(wheel: Wheel) -> None:
    entries = [Entry() for _ in range(2)]
    for at, entry in enumerate(entries):
        entry.action = lambda other=entries[1 - at]: None if other.fired else wheel.schedule(other, 0.2)  # type: ignore[misc]
        wheel.schedule(entry, 0.05)
    await until(lambda: all(entry.fired for entry in entries))
    first, second = sorted(entry.fired[0] for entry in entries)
    assert second - first >= 0.2
    await asyncio.sleep(3 * TICK_S)
    assert [len(entry.fired) for entry in entries] == [1, 1]


async def test_entry_that_raises_is_told_of_and_the_others_go_on(wheel: Wheel) -> None:
    def fail() -> None:
        raise RuntimeError("on purpose")

    bad, good, later = Entry(fail), Entry(), Entry()
    wheel.schedule(bad, 0.05)
    wheel.schedule(good, 0.05)
    wheel.schedule(later, 0.15)
    await until(lambda: good.fired and later.fired)
    assert [str(error) for error in wheel.errors] == ["on purpose"]
    assert len(bad.fired) == 1


async def test_nothing_is_lost_when_the_process_pauses(wheel: Wheel) -> None:
    entries = [Entry() for _ in range(20)]
    for at, entry in enumerate(entries):
        wheel.schedule(entry, 0.02 * at)
    time.sleep(0.6)  # noqa: ASYNC251 - all of them become due while the loop does not turn
    await until(lambda: all(entry.fired for entry in entries))
    for at, entry in enumerate(entries[:-4]):
        assert entry.fired[0] < entries[at + 4].fired[0]  # the tick before is served before
    assert len(wheel) == 0


async def test_wheel_rests_when_it_is_empty_and_starts_again(wheel: Wheel) -> None:
    first, second = Entry(), Entry()
    wheel.schedule(first, 0.0)
    await until(lambda: first.fired)
    await asyncio.sleep(4 * TICK_S)
    assert wheel._handle is None  # no timer turns for nothing
    began = time.monotonic()
    wheel.schedule(second, 0.05)
    await until(lambda: second.fired)
    assert second.fired[0] - began >= 0.05


async def test_many_entries_cost_little(wheel: Wheel) -> None:
    entries = [Entry() for _ in range(30_000)]
    began = time.process_time()
    for at, entry in enumerate(entries):
        wheel.schedule(entry, 10 + at % 600)
    for entry in entries:
        wheel.schedule(entry, 20)
    for entry in entries:
        wheel.cancel(entry)
    assert time.process_time() - began < 1.0
    assert len(wheel) == 0
