"""What one instance takes over of another one's sources, decided about by both afterwards."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symphony.api.heritage import AFFINITY, SOURCES, Memory, estate, take_affinity, take_sources
from symphony.host.shared_memory import UnusableMemory, attach, share
from symphony.protection.inheritance import inherit
from symphony.protection.penalty import SourceLimits, Verdict
from symphony.protection.source_store import SourceStore
from symphony.protection.sources import SourceTable
from symphony.routing.affinity import AffinityTable

LIMITS = SourceLimits(1.0, 3.0, 20.0, 5.0, penalty_s=4.0)


def table(store: SourceStore, now: float, *listeners: str, limits: SourceLimits = LIMITS) -> SourceTable:
    made = SourceTable(store)
    for listener in listeners:
        assert made.configure(listener, limits, now)
    return made


def judge(sources: SourceTable, key: bytes, now: float, listener: str = "web") -> Verdict:
    decision = sources.decide(listener, key, now)
    assert decision is not None
    return decision[0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 1.5), st.integers(0, 6)), max_size=80),
    st.lists(st.tuples(st.floats(0.0, 1.5), st.integers(0, 6)), max_size=40),
    st.floats(0.0, 50.0),
)
def test_the_next_instance_decides_as_the_last_one_would(
    before: list[tuple[float, int]], after: list[tuple[float, int]], late: float
) -> None:
    old, new = SourceStore(1000), SourceStore(1000)
    last = table(old, 0.0, "mail", "web")
    now = late
    next = table(new, now / 2, "web", "other")  # its clocks began at another time, and its numbers are others
    for gap, number in before:
        now += gap
        judge(last, bytes([number]), now)
    list(inherit(new, old, now))
    for gap, number in after:
        now += gap
        assert judge(next, bytes([number]), now) is judge(last, bytes([number]), now)


def test_only_who_has_something_to_answer_for_is_taken_over() -> None:
    old, new = SourceStore(1000), SourceStore(1000)
    last = table(old, 0.0, "web", "gone")
    table(new, 0.0, "web")
    judge(last, b"full again", 0.0)
    for key in (b"lacks", b"boxed", b"boxed", b"boxed", b"boxed"):
        judge(last, key, 10.0)
    judge(last, b"of nobody", 10.0, "gone")
    assert sum(inherit(new, old, 10.5)) == 2
    assert {new.key(place) for places in new.used() for place in places} == {b"lacks", b"boxed"}


def test_a_full_set_takes_no_more() -> None:
    old, new = SourceStore(85), SourceStore(2)
    last = table(old, 0.0, "web")
    table(new, 0.0, "web")
    for number in range(5):
        judge(last, bytes([number]), 0.0)
    assert sum(inherit(new, old, 0.0)) == 2


async def test_both_kinds_of_memory_are_handed_on() -> None:
    affinity, sources = AffinityTable(), SourceStore(1000)
    affinity.remember(99 << 40, 7, 1000)
    judge(table(sources, 0.0, "web"), b"key", 0.0)
    handed = {
        name: Memory(each.layout, os.dup(each.descriptor)) for name, each in estate(affinity, sources).items()
    }
    taken = take_affinity(handed)
    assert taken.recall(99 << 40, 1000, 1000) == 7
    taken.remember(98 << 40, 3, 1000)
    assert affinity.recall(98 << 40, 1000, 1000) == 3, "they are one"
    store = SourceStore(1000)
    table(store, 0.0, "web")
    await take_sources(handed, store)
    with pytest.raises(OSError):
        os.fstat(handed[SOURCES].descriptor)  # it is read, and not needed any more


def open_descriptors(what: str) -> int:
    """How many descriptors this process has of memory that is called `what`."""
    found = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            found += f"memfd:{what}" in os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            continue  # that of the listing itself
    return found


async def test_memory_that_is_not_as_it_should_be_is_left_and_closed() -> None:
    _mapping, small = share("too small", 1000)
    before = open_descriptors("too small")
    for layout in ("another", AffinityTable.LAYOUT):
        taken = take_affinity({AFFINITY: Memory(layout, os.dup(small))})
        assert taken.recall(1, 0, 1000) == -1
    store = SourceStore(1000)
    for layout in ("another", store.layout):
        await take_sources({SOURCES: Memory(layout, os.dup(small))}, store)
    assert open_descriptors("too small") == before
    await take_sources({}, store)
    assert take_affinity({}).recall(1, 0, 1000) == -1


def test_what_cannot_be_mapped_is_refused() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with pytest.raises(UnusableMemory, match="it has 0 bytes, expected 4096"):
        attach(reading, 4096)
    with pytest.raises(OSError):
        os.fstat(reading)


def test_memory_goes_with_its_last_user() -> None:
    mapping, descriptor = share("test", 4096)
    mapping[:3] = b"abc"
    other, _ = attach(os.dup(descriptor), 4096)
    assert other[:3] == b"abc"
    del mapping
    with pytest.raises(OSError):
        os.fstat(descriptor)
    assert other[:3] == b"abc"
