"""Totals that outlive the processes which counted them."""

from __future__ import annotations

import random

from symphony.observe.books import Books
from symphony.observe.counters import (
    ACCEPTED,
    ACTIVE,
    BLOCKED_SLOT,
    BYTES_UP,
    REASON_SLOT,
    CounterPage,
    Totals,
)
from symphony.observe.reasons import Reason
from symphony.observe.record_area import owner_mark, route_area
from symphony.observe.record_totals import add_up
from symphony.observe.records import RouteRecord


def count(page: CounterPage, listener: str, times: int, active: int = 0) -> None:
    slot = page.listener_slot(listener)
    page.values[ACCEPTED] += times
    page.values[slot] += times
    page.values[ACTIVE] += active
    page.values[slot + 1] += active
    page.values[slot + BLOCKED_SLOT[Reason.CIDR_BLOCKED]] += times
    page.values[REASON_SLOT[Reason.CIDR_BLOCKED]] += times


def figures(totals: Totals, *listeners: str) -> list[int]:
    found = [totals.values[ACCEPTED], totals.values[ACTIVE]]
    for listener in listeners:
        accepted, active, *_ = totals.of_listener(listener)
        found += [accepted, active, totals.blocked(listener).get("cidr_blocked", 0)]
    return found


def test_totals_of_closed_pages_stay_and_gauges_go() -> None:
    books = Books()
    assert figures(books.totals(), "a") == [0, 0, 0, 0, 0]
    first = books.open(["a", "b"], 2)
    count(first[0], "a", 3, active=2)
    count(first[1], "b", 4, active=1)
    assert figures(books.totals(), "a", "b") == [7, 3, 3, 2, 3, 4, 1, 4]
    # The next ones have other listeners in another order.
    second = books.open(["b", "c"], 1)
    count(second[0], "b", 10, active=5)
    assert books.pages == (*first, *second)
    books.close(first)
    assert books.pages == second
    assert figures(books.totals(), "a", "b", "c") == [17, 5, 3, 0, 3, 14, 5, 14, 0, 0, 0]
    assert books.totals().errors() == {"cidr_blocked": 17}
    assert first[0].values[ACTIVE] == first[0].active_at("a") == 0
    assert second[0].active_at("a") == 0, "it has no such listener"
    assert second[0].active_at("b") == 5


def test_no_total_ever_goes_back_whatever_comes_and_goes() -> None:
    chance = random.Random(7)
    books = Books()
    live = [books.open(["a", "b"], 3)]
    counted = 0
    for _ in range(200):
        what = chance.random()
        if what < 0.1:
            live.append(books.open(chance.choice([["a"], ["b", "a"], ["c", "b"]]), chance.randint(1, 4)))
        elif what < 0.2 and len(live) > 1:
            books.close(live.pop(chance.randrange(len(live))))
        else:
            page = chance.choice(chance.choice(live))
            page.values[BYTES_UP] += 5
            counted += 5
        assert books.totals().values[BYTES_UP] == counted


def test_records_of_routes_are_added_up_by_their_owners() -> None:
    gone, former, closed = route_area(), route_area(), route_area()
    record = RouteRecord("a.example")
    record.take(gone, (gone.words,), 3)
    for moved in (10, 20):
        record.opened()
        record.closed(moved, 1, failed=False)
    record.opened()
    other = RouteRecord("b.example")
    other.take(former, (former.words,), 0)
    other.opened()
    closed.take_over(gone)
    closed.take_over(former)
    closed.take_over(gone)  # of which there is nothing left
    for areas in ((closed,), (closed, gone, former)):
        totals = add_up(areas, 3, "a.example")
        assert (totals.connections, totals.bytes_up, totals.bytes_down, totals.active) == (3, 30, 2, 0)
    assert add_up((closed,), 0, "b.example").connections == 1
    assert closed.words[closed.at(1) + 1] == 0
    assert closed.words[closed.at(0) + 1] == owner_mark("b.example")
