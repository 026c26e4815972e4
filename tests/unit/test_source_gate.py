"""How an acceptor comes to know whether a source may connect: at once, later, or alone; and what it tells of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest
from msgspec import Struct

from symphony.mailbox.client import MailboxClient
from symphony.messages.limiter import AtLimit, Configure
from symphony.protection import source_gate
from symphony.protection.hold_cells import HoldCells, Holds
from symphony.protection.penalty import SourceLimits, Verdict
from symphony.protection.source_gate import ListenerGate, SourceGate, share
from symphony.protection.source_store import SourceStore
from symphony.protection.sources import SourceTable

A, B = b"\x7f\0\0\1", b"\x7f\0\0\2"
SLOW = 0.001
LIMIT_S = 10.0


class Line:
    """In the place of the connection to the limiter."""

    def __init__(self) -> None:
        self.connected = True
        self.takes = True
        self.sent: list[Struct] = []
        self.on_up = lambda: None

    def cast(self, message: Struct) -> bool:
        if self.connected and self.takes:
            self.sent.append(message)
            return True
        return False

    def taken(self) -> list[Struct]:
        sent, self.sent = self.sent, []
        return sent


class Desk:
    """An acceptor's gate with one listener, and another acceptor's table of the same sources."""

    def __init__(self, limits: SourceLimits, acceptors: int = 2) -> None:
        self.now = 1000.0
        self.line = Line()
        self.store = SourceStore(1000)
        pages = [HoldCells(self.store.cells) for _ in range(2)]
        for page in pages:
            page.claim()
        self.other = SourceTable(self.store, Holds(1, pages))
        self.alone = 0
        self.gate = SourceGate(
            cast(MailboxClient, self.line),
            acceptors,
            SourceTable(self.store, Holds(0, pages)),
            self._note_alone,
            lambda: self.now,
        )
        self.web: ListenerGate = self.gate.listener("web")
        self.gate.configure(1, {"web": limits})
        assert self.other.configure("web", limits, self.now, 1)
        assert self.line.taken() == [Configure(1, (("web", limits),))]
        self.answers: list[tuple[str, int]] = []

    def _note_alone(self) -> None:
        self.alone += 1

    def ask(self, key: bytes = A, times: int = 1) -> list[str]:
        """What is answered at once."""
        before = len(self.answers)
        for _ in range(times):
            self.web.ask(key, self._answered)
        return [verdict for verdict, _ in self.answers[before:]]

    def _answered(self, verdict: Verdict, cell: int) -> None:
        self.answers.append((verdict.value, cell))

    async def until_answered(self, count: int) -> list[str]:
        async with asyncio.timeout(LIMIT_S):
            while len(self.answers) < count:  # noqa: ASYNC110 - as the gate's clock is the test's
                await asyncio.sleep(0.001)
        return [verdict for verdict, _ in self.answers]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody does not give the locks back."""
        assert self.store.locks.take_all()
        try:
            yield
        finally:
            self.store.locks.give_all_back()


async def test_an_answer_comes_at_once_and_is_exact_over_all() -> None:
    desk = Desk(SourceLimits(5.0, 5.0, max_concurrent=3))
    assert desk.ask(times=2) == ["held", "held"]
    assert desk.other.decide("web", A, desk.now) is not None
    assert desk.ask() == ["too_many_connections"]
    desk.web.release(desk.answers[0][1])
    assert desk.ask(times=2) == ["held", "rate_limited"]
    assert desk.ask(B) == ["held"]
    assert desk.alone == 0
    desk.gate.close()


async def test_without_a_limit_on_them_open_connections_are_not_held() -> None:
    desk = Desk(SourceLimits(5.0, 1.0, penalty_s=60.0))
    assert desk.ask(times=3) == ["admitted", "rate_limited", "penalty_boxed"]
    desk.gate.close()


# ---- when the lock is not to be had


async def test_a_question_waits_for_the_lock() -> None:
    desk = Desk(SourceLimits(SLOW, 2.0))
    with desk.locked():
        assert desk.ask(times=3) == []
        await asyncio.sleep(0.01)
        assert desk.answers == []
    assert await desk.until_answered(3) == ["admitted", "admitted", "rate_limited"]
    assert desk.alone == 0
    desk.gate.close()


async def test_and_after_a_while_each_acceptor_has_its_share() -> None:
    desk = Desk(SourceLimits(SLOW, 8.0, penalty_s=60.0), acceptors=2)
    with desk.locked():
        desk.ask(times=6)
        desk.now += source_gate.WAIT_AT_MOST_S
        assert await desk.until_answered(6) == ["admitted"] * 4 + ["rate_limited", "penalty_boxed"]
        assert desk.alone == 6
        desk.gate._report()
    desk.gate._report()
    assert desk.ask(times=3) == ["admitted", "admitted", "rate_limited"], "six of eight tokens are gone"
    desk.gate.close()


async def test_what_can_be_seen_without_the_lock_counts_too() -> None:
    desk = Desk(SourceLimits(SLOW, 8.0, max_concurrent=2), acceptors=2)
    taken = desk.other.decide("web", A, desk.now)
    with desk.locked():
        desk.ask(times=2)
        desk.ask(B)
        desk.now += source_gate.WAIT_AT_MOST_S
        assert await desk.until_answered(3) == ["held", "too_many_connections", "table_full"]
    assert taken is not None
    desk.other.release(taken[1])
    assert desk.ask(times=2) == ["held", "too_many_connections"]
    desk.gate.close()


async def test_who_has_used_up_the_share_does_not_count_as_open() -> None:
    desk = Desk(SourceLimits(SLOW, 2.0, max_concurrent=5), acceptors=2)
    assert desk.ask() == ["held"]
    desk.web.release(desk.answers[0][1])
    with desk.locked():
        desk.ask(times=2)
        desk.now += source_gate.WAIT_AT_MOST_S
        assert await desk.until_answered(3) == ["held", "held", "rate_limited"]
    desk.gate._report()
    assert desk.ask() == ["rate_limited"]
    desk.now += 1.5 / SLOW
    assert desk.ask() == ["held"], "nothing is owed: one was let in, one refused"
    desk.gate.close()


async def test_limits_that_cannot_be_applied_are_so_when_the_lock_is_free() -> None:
    desk = Desk(SourceLimits(SLOW, 2.0))
    with desk.locked():
        desk.gate.configure(2, {"web": SourceLimits(SLOW, 4.0), "mail": SourceLimits(SLOW, 1.0)})
        mail = desk.gate.listener("mail")
        mail.ask(A, desk._answered)
        desk.now += source_gate.WAIT_AT_MOST_S
        assert await desk.until_answered(1) == ["admitted"], "of a listener that nobody knows yet"
        mail.ask(A, desk._answered)
    assert await desk.until_answered(2) == ["admitted", "admitted"]
    desk.gate._report()
    desk.answers.clear()
    mail.ask(A, desk._answered)
    assert await desk.until_answered(1) == ["rate_limited"]
    assert desk.ask(times=5) == ["admitted"] * 4 + ["rate_limited"]
    desk.gate.close()


async def test_what_is_decided_alone_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_gate, "_COUNTED_SOURCES", 10)
    desk = Desk(SourceLimits(5.0, 5.0))
    for number in range(50):
        desk.gate.count("web", bytes([number, 0, 0, 0]), desk.now, True)
    assert len(desk.gate._counted) == 10
    desk.gate.close()
    assert not desk.gate._counted


async def test_one_answer_that_is_not_taken_keeps_no_other_from_its_own() -> None:
    desk = Desk(SourceLimits(5.0, 5.0))

    def fail(verdict: Verdict, cell: int) -> None:
        raise ValueError(verdict)

    with desk.locked():
        desk.web.ask(A, fail)
        desk.ask()
    assert await desk.until_answered(1) == ["admitted"]
    desk.gate.close()


def test_shares() -> None:
    assert share(SourceLimits(8.0, 6.0, 60.0, 30.0, 600.0, 7), 4) == SourceLimits(2.0, 1.5, 15.0, 7.5, 1.0, 0)
    assert share(SourceLimits(1.0, 1.0), 4) == SourceLimits(0.25, 1.0), "one connection each at the least"
    assert share(SourceLimits(per_minute=60.0, per_minute_burst=60.0), 1) == SourceLimits(
        per_minute=60.0, per_minute_burst=60.0
    )


# ---- what the limiter is told


async def test_who_is_at_the_limit_is_told_while_it_is_so() -> None:
    desk = Desk(SourceLimits(max_concurrent=2))
    desk.ask(times=2)
    desk.ask(B)
    assert desk.line.taken() == []
    async with asyncio.timeout(LIMIT_S):
        while not desk.line.sent:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.01)
    assert desk.line.taken() == [AtLimit("web", (A,))]
    desk.gate._report()
    assert desk.line.taken() == [], "nothing has changed"
    desk.web.release(desk.answers[0][1])
    desk.line.takes = False
    desk.gate._report()
    desk.line.takes = True
    desk.gate._report()
    assert desk.line.taken() == [AtLimit("web", ())]
    desk.gate._report()
    assert desk.gate._reporting is None and desk.line.taken() == []
    desk.gate.close()


async def test_a_limiter_that_is_new_is_told_all() -> None:
    desk = Desk(SourceLimits(max_concurrent=2))
    desk.line.connected = False
    desk.ask(times=2)
    assert desk.web.hold(B) >= 0
    desk.gate.configure(2, {"web": SourceLimits(max_concurrent=1)})
    desk.gate._report()
    assert desk.line.taken() == []
    desk.line.connected = True
    for _ in range(2):
        desk.line.on_up()
        configured, told = desk.line.taken()
        assert configured == Configure(2, (("web", SourceLimits(max_concurrent=1)),))
        assert isinstance(told, AtLimit) and told.keys == (A,), "of B it is not seen before it tries again"
    desk.gate.close()


async def test_what_is_open_already_counts_whatever_the_limit() -> None:
    desk = Desk(SourceLimits(max_concurrent=2))
    cells = [desk.web.hold(A) for _ in range(3)]
    assert desk.ask() == ["too_many_connections"]
    for cell in cells:
        desk.web.release(cell)
    assert desk.ask(times=3) == ["held", "held", "too_many_connections"]
    with desk.locked():
        cell = desk.web.hold(B)
    assert cell == -1, "it cannot be counted, and serves on"
    desk.web.release(cell)
    desk.gate.close()
