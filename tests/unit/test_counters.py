"""Totals in shared memory."""

from __future__ import annotations

import os

from symphony.observe.counters import (
    ACCEPTED,
    ACTIVE,
    BLOCKED_SLOT,
    BYTES_DOWN,
    BYTES_UP,
    CONNECT_TIME,
    DECIDED_ALONE,
    HANDSHAKE_TIME,
    HANDSHAKES,
    LISTENER_DOWN,
    LISTENER_HANDSHAKES,
    LISTENER_REASON_SLOT,
    LISTENER_UP,
    REASON_SLOT,
    RESUMED,
    ROUTE_DECIDED_ALONE,
    ROUTE_DENIED,
    SUITE_SLOT,
    CounterPage,
)
from symphony.observe.histogram import WORDS
from symphony.observe.reasons import BLOCKED, Reason


def test_slots_are_all_different() -> None:
    page = CounterPage(["a", "b", "c"])
    slots = [ACCEPTED, ACTIVE, BYTES_UP, BYTES_DOWN, HANDSHAKES, RESUMED, DECIDED_ALONE]
    slots += [ROUTE_DECIDED_ALONE, ROUTE_DENIED]
    slots += REASON_SLOT.values()
    for start in (HANDSHAKE_TIME, CONNECT_TIME):
        slots += range(start, start + WORDS)
    for slot in SUITE_SLOT.values():
        slots += [slot, slot + 1]
    for name in ("a", "b", "c"):
        at = page.listener_slot(name)
        slots += [at, at + 1, at + LISTENER_HANDSHAKES, at + LISTENER_UP, at + LISTENER_DOWN]
        slots += [at + reason for reason in LISTENER_REASON_SLOT.values()]
    assert sorted(slots) == list(range(len(slots)))
    assert set(REASON_SLOT) == set(Reason)
    assert set(LISTENER_REASON_SLOT) == set(Reason)
    assert {reason: LISTENER_REASON_SLOT[reason] for reason in BLOCKED} == BLOCKED_SLOT
    for at, slot in enumerate(slots):
        page.values[slot] = at + 1
    assert [page.values[slot] for slot in slots] == list(range(1, len(slots) + 1))


def test_errors_leave_out_what_never_happened() -> None:
    page = CounterPage([])
    assert page.errors() == {}
    page.values[REASON_SLOT[Reason.NO_SNI]] += 2
    page.values[REASON_SLOT[Reason.INTERNAL_ERROR]] += 1
    assert page.errors() == {"no_sni": 2, "internal_error": 1}


def test_refusals_are_told_by_listener() -> None:
    page = CounterPage(["a", "b"])
    page.values[page.listener_slot("b") + BLOCKED_SLOT[Reason.CIDR_BLOCKED]] += 3
    assert page.blocked(page.listener_slot("a")) == {}
    assert page.blocked(page.listener_slot("b")) == {"cidr_blocked": 3}


def test_forgetting_gauges_keeps_totals() -> None:
    page = CounterPage(["a", "b"])
    for slot in range(len(page.values)):
        page.values[slot] = 7
    page.forget_active()
    gauges = {ACTIVE, page.listener_slot("a") + 1, page.listener_slot("b") + 1}
    assert [slot for slot in range(len(page.values)) if page.values[slot] == 0] == sorted(gauges)
    assert all(page.values[slot] in (0, 7) for slot in range(len(page.values)))


def test_another_process_reads_what_one_writes() -> None:
    page = CounterPage(["a"])
    large = 2**62
    pid = os.fork()
    if pid == 0:
        page.values[BYTES_UP] = large
        page.values[page.listener_slot("a")] += 3
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert page.values[BYTES_UP] == large
    assert page.values[page.listener_slot("a")] == 3


def test_pages_are_apart() -> None:
    one, two = CounterPage(["a"]), CounterPage(["a"])
    one.values[ACCEPTED] = 5
    assert two.values[ACCEPTED] == 0
