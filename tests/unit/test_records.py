"""Totals per upstream and per route: whose they are, what becomes of them, and who may read them."""

from __future__ import annotations

import itertools
import os
import signal

import pytest

from symphony.observe.counters import CounterPage
from symphony.observe.record_area import RecordArea, owner_mark, upstream_area
from symphony.observe.record_reader import read_records
from symphony.observe.record_totals import Totals, add_up, add_up_times, read_whole
from symphony.observe.records import RecordBook, RouteRecord
from symphony.observe.timings import TIMED
from symphony.routing.upstream import UpstreamRecord


class Acceptors:
    """The areas of some acceptors, and the books of those that live."""

    def __init__(self, count: int = 2) -> None:
        self.pages = [CounterPage([]) for _ in range(count)]
        self.areas = [page.upstreams for page in self.pages]
        self.books = [self.book(index) for index in range(count)]

    def book(self, index: int) -> RecordBook[UpstreamRecord]:
        return RecordBook(lambda key: UpstreamRecord(key, set()), self.areas, self.areas[index])

    def restart(self, index: int) -> None:
        self.pages[index].forget_active()
        self.books[index] = self.book(index)

    def total(self, number: int, key: str) -> Totals:
        return add_up(self.areas, number, key)


@pytest.fixture
def acceptors() -> Acceptors:
    return Acceptors()


def one_connection(record: UpstreamRecord) -> None:
    record.begin()
    record.connected(70)
    record.closed(10, 20)


def test_everybody_sees_the_sum(acceptors: Acceptors) -> None:
    one, two = (book.record("u", 3) for book in acceptors.books)
    one_connection(one)
    one.begin()
    one.connected(30)
    two.begin()
    two.failed(0, 100, "refused")
    two.begin()
    assert one.active == two.active == 2
    assert acceptors.total(3, "u") == Totals(2, 2, 1, 10, 20, 100)
    assert one.totals == Totals(1, 2, 0, 10, 20, 100)
    assert acceptors.total(4, "u") == acceptors.total(-1, "u") == Totals(0, 0, 0, 0, 0, 0)


def test_neighbours_are_apart(acceptors: Acceptors) -> None:
    records = [acceptors.books[0].record(str(number), number) for number in range(20)]
    for number, record in enumerate(records):
        for _ in range(number):
            one_connection(record)
    for number in range(20):
        assert acceptors.total(number, str(number)) == Totals(
            0, number, 0, 10 * number, 20 * number, 70 * number
        )


def test_one_record_per_key(acceptors: Acceptors) -> None:
    book = acceptors.books[0]
    record = book.record("u", 3)
    assert book.record("u", 3) is record is book.record("u")
    assert record.number == 3  # asking without a number takes none away
    assert len(book) == 1
    del record
    assert len(book) == 0


def test_without_a_number_it_counts_alone(acceptors: Acceptors) -> None:
    one, two = (book.record("u") for book in acceptors.books)
    one_connection(one)
    one.begin()
    assert (one.active, two.active) == (1, 0)
    assert one.totals == Totals(1, 1, 0, 10, 20, 70)
    # It brings along what it has counted when it gets one.
    acceptors.books[0].record("u", 5)
    acceptors.books[1].record("u", 5)
    assert one.active == two.active == 1
    one.closed(1, 1)
    assert acceptors.total(5, "u") == Totals(0, 1, 0, 11, 21, 70)


def test_a_number_beyond_the_capacity_is_none(acceptors: Acceptors) -> None:
    record = acceptors.books[0].record("u", acceptors.areas[0].capacity)
    one_connection(record)
    assert record.number == -1
    last = acceptors.books[0].record("v", acceptors.areas[0].capacity - 1)
    one_connection(last)
    assert acceptors.total(last.number, "v").connections == 1


def test_a_number_is_given_on_while_connections_are_open(acceptors: Acceptors) -> None:
    book = acceptors.books[0]
    old = book.record("old", 7)
    one_connection(old)
    old.begin()
    new = book.record("new", 7)
    assert (old.active, new.active) == (1, 0)
    new.begin()
    old.closed(5, 5)
    assert (old.active, new.active) == (0, 1)
    assert old.totals == Totals(0, 1, 0, 15, 25, 70)
    assert acceptors.total(7, "new") == Totals(1, 0, 0, 0, 0, 0)
    assert acceptors.total(7, "old") == Totals(0, 0, 0, 0, 0, 0)


def test_an_acceptor_that_lags_behind_is_not_added(acceptors: Acceptors) -> None:
    one_connection(acceptors.books[0].record("old", 7))
    acceptors.books[1].record("new", 7)
    assert acceptors.total(7, "new").connections == 0
    assert acceptors.total(7, "old").connections == 1
    new = acceptors.books[0].record("new", 7)
    assert new.totals == Totals(0, 0, 0, 0, 0, 0)


def test_totals_survive_the_process_and_gauges_do_not(acceptors: Acceptors) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            record = acceptors.books[0].record("u", 2)
            one_connection(record)
            record.begin()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    reader = acceptors.books[1].record("u", 2)
    assert acceptors.total(2, "u") == Totals(1, 1, 0, 10, 20, 70)
    acceptors.restart(0)
    assert reader.active == 0
    one_connection(acceptors.books[0].record("u", 2))
    assert acceptors.total(2, "u") == Totals(0, 2, 0, 20, 40, 140)


def test_another_number_takes_the_totals_along(acceptors: Acceptors) -> None:
    book = acceptors.books[0]
    record = book.record("u", 1)
    one_connection(record)
    record.begin()
    assert book.record("u", 9) is record
    assert acceptors.total(9, "u") == Totals(1, 1, 0, 10, 20, 70)
    other = book.record("other", 1)
    record.closed(0, 0)
    assert (record.active, other.active) == (0, 0)
    assert record.number == 9


def test_routes() -> None:
    page = CounterPage([])
    record = RecordBook(RouteRecord, [page.routes], page.routes).record("", 0)
    record.opened()
    record.opened()
    record.closed(3, 4, False)
    assert add_up([page.routes], 0, "") == Totals(1, 2, 0, 3, 4, 0)
    record.closed(0, 0, True)
    assert add_up([page.routes], 0, "") == Totals(0, 2, 1, 3, 4, 0)


def test_records_do_not_overlap_and_nothing_is_backed_before_it_is_used() -> None:
    area = RecordArea(6, 1000)
    begins = [area.at(number) for number in range(area.capacity)]
    assert begins[0] >= 1 and all(b - a == area.size for a, b in itertools.pairwise(begins))
    assert begins[-1] + area.size == len(area.words)
    before = shared_kib()
    pages = [CounterPage([]) for _ in range(8)]
    for page in pages:
        page.upstreams.claim(0, owner_mark("u"))
        page.forget_active()
    assert shared_kib() - before < 8 * 20  # some pages of 4 KiB each, of about 8 MiB


def shared_kib() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssShmem"))


def test_times_are_kept_for_the_first_numbers_and_follow_their_owner(acceptors: Acceptors) -> None:
    one, two = (book.record("u", 3) for book in acceptors.books)
    one_connection(one)
    one_connection(two)
    far = acceptors.books[0].record("far", TIMED)
    one_connection(far)
    took = add_up_times(acceptors.areas, 3, "u")
    assert (took.count, took.sum_us) == (2, 140)
    assert add_up_times(acceptors.areas, TIMED, "far").count == 0
    assert acceptors.total(TIMED, "far").connections == 1
    # The number goes to another owner: its times begin anew, and the former owner's are not added to.
    other = acceptors.books[0].record("other", 3)
    one_connection(other)
    one_connection(one)
    assert add_up_times(acceptors.areas, 3, "other").count == 1
    assert add_up_times(acceptors.areas, 3, "u").count == 1, "what the second acceptor still counts"
    # Another number: they come along.
    acceptors.books[0].record("other", 5)
    assert add_up_times(acceptors.areas, 5, "other").count == 1


def test_times_outlive_their_process(acceptors: Acceptors) -> None:
    one_connection(acceptors.books[0].record("u", 3))
    acceptors.restart(0)
    again = acceptors.books[0].record("u", 3)
    one_connection(again)
    closed = upstream_area()
    assert read_whole(acceptors.areas, closed, 3, "u")[1].count == 2
    closed.take_over(acceptors.areas[0])
    totals, took = read_whole(acceptors.areas, closed, 3, "u")
    assert (totals.connections, took.count, took.sum_us) == (2, 2, 140)
    assert add_up_times(acceptors.areas, 3, "u").count == 0


def test_nothing_goes_back_or_twice_while_records_are_taken_over() -> None:
    """Another process reads all the while."""
    acceptors = Acceptors(1)
    keys = [f"u{number}" for number in range(300)]
    for number, key in enumerate(keys):
        record = acceptors.books[0].record(key, number)
        for _ in range(3):
            one_connection(record)
    closed = upstream_area()
    ready = os.pipe()
    pid = os.fork()
    if not pid:
        wrong = 0
        os.write(ready[1], b"!")
        while any(closed.words[closed.at(number) + 1] == 0 for number in range(len(keys))):
            for number, key in enumerate(keys):
                totals, took = read_whole(acceptors.areas, closed, number, key)
                wrong += (totals.connections, took.count) != (3, 3)
        os._exit(min(wrong, 100))
    os.read(ready[0], 1)
    closed.take_over(acceptors.areas[0])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert closed.moves == 2 * len(keys)
    for descriptor in ready:
        os.close(descriptor)


async def test_only_what_was_used_is_read(acceptors: Acceptors) -> None:
    used, idle = (acceptors.books[0].record(key, number) for key, number in (("used", 3), ("idle", 4)))
    one_connection(used)
    assert [acceptors.areas[0].is_used(number) for number in (3, 4, -1, acceptors.areas[0].capacity)] == [
        True,
        False,
        False,
        False,
    ]
    closed = upstream_area()
    keys = (("used", 3), ("idle", 4), ("unnumbered", -1), ("another owner", 3))
    totals, times = await read_records(acceptors.areas, closed, keys)
    assert {key: found.connections for key, found in totals.items()} == {"used": 1}
    assert times["used"].sum_us == 70 and len(times) == 1
    closed.take_over(acceptors.areas[0])
    assert await read_records(acceptors.areas, closed, keys) == (totals, times)
    del idle
