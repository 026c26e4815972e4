"""What an acceptor makes of the limiter's answers, what it remembers, and what it does without an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from msgspec import Struct

from symphony.mailbox.client import MailboxClient
from symphony.mailbox.envelope import Refused
from symphony.messages.limiter import Admit, Attempts, Configure, Count, Hold, Holding, Release, Ruling
from symphony.protection.hold_cells import HoldCells, SharedHolds
from symphony.protection.penalty import SourceLimits, Verdict
from symphony.protection.source_gate import REMEMBER_S, SETTLED_AFTER_S, ListenerGate, SourceGate, share

A, B = b"\x7f\0\0\1", b"\x7f\0\0\2"
SLOW = 0.001


class Line:
    """In the place of the connection to the limiter."""

    def __init__(self) -> None:
        self.connected = True
        self.takes = True
        self.sent: list[Struct] = []
        self.asked: list[tuple[Struct, Callable[[Any], None]]] = []
        self.on_up: Callable[[], None]
        self.on_down: Callable[[], None]
        self.on_late: Callable[[Any], None]

    def cast(self, message: Struct) -> bool:
        if self.connected and self.takes:
            self.sent.append(message)
            return True
        return False

    def request(self, message: Struct, callback: Callable[[Any], None], timeout_s: float) -> None:
        assert timeout_s <= 0.046
        if self.connected:
            self.asked.append((message, callback))
        else:
            callback(None)

    def taken(self) -> list[Struct]:
        sent, self.sent = self.sent, []
        return sent


class Desk:
    """An acceptor's gate with one listener, on a clock of its own."""

    def __init__(self, limits: SourceLimits, acceptors: int = 2) -> None:
        self.now = 1000.0
        self.line = Line()
        self.pages = [HoldCells() for _ in range(acceptors)]
        self.other = SharedHolds(1, self.pages)
        self.alone = 0
        holds = SharedHolds(0, self.pages)
        self.gate = SourceGate(
            cast(MailboxClient, self.line), acceptors, holds, self._note_alone, lambda: self.now
        )
        self.web: ListenerGate = self.gate.listener("web")
        self.gate.configure(1, {"web": limits})
        assert self.line.taken() == [Configure(1, (("web", limits),))]

    def _note_alone(self) -> None:
        self.alone += 1

    def settle(self, reply: Any = None, key: bytes = A, remember: bool = True) -> str:
        return self.web.settle(key, reply, remember).value

    def refused(self, verdict: Verdict, seconds: float, key: bytes = A, remember: bool = True) -> str:
        return self.settle(Ruling(verdict, self.now + seconds), key, remember)


async def test_a_question_and_its_answers() -> None:
    desk = Desk(SourceLimits(5.0, 5.0, max_concurrent=3))
    answers: list[Any] = []
    desk.web.ask(A, answers.append)
    assert [question for question, _ in desk.line.asked] == [Admit("web", A)]
    assert desk.settle(Ruling(Verdict.ADMITTED, 0.0)) == "admitted"
    assert desk.settle(Holding("web", A)) == "held"
    assert desk.web.held == {A: 1}
    desk.web.release(A)
    assert desk.web.held == {}
    assert desk.line.taken() == [Release("web", A)]
    assert desk.settle(Ruling(Verdict.TOO_MANY_CONNECTIONS, 0.0)) == "too_many_connections"
    assert desk.web.refusal(A) is None
    assert desk.alone == 0


# ---- what is remembered


async def test_who_is_in_the_box_is_refused_unasked_and_counted() -> None:
    desk = Desk(SourceLimits(5.0, 5.0, penalty_s=60.0))
    assert desk.refused(Verdict.PENALTY_BOXED, 60.0) == "penalty_boxed"
    for _ in range(3):
        desk.now += 0.1
        assert desk.web.refusal(A) is Verdict.PENALTY_BOXED
    assert desk.web.refusal(B) is None
    desk.gate._report()
    assert desk.line.taken() == [
        Count("web", (Attempts(A, 3, 0, pytest.approx(1000.1), pytest.approx(1000.3)),))
    ]
    desk.now += REMEMBER_S
    assert desk.web.refusal(A) is None, "asked again after a second"
    assert desk.refused(Verdict.PENALTY_BOXED, 0.2) == "penalty_boxed"
    desk.now += 0.3
    assert desk.web.refusal(A) is None, "never longer than it lasts"


async def test_while_nobody_can_be_asked_who_is_in_the_box_stays_there() -> None:
    desk = Desk(SourceLimits(5.0, 5.0, penalty_s=60.0))
    desk.refused(Verdict.PENALTY_BOXED, 60.0)
    desk.line.connected = False
    desk.now += 59.0
    assert desk.web.refusal(A) is Verdict.PENALTY_BOXED
    desk.now += 2.0
    assert desk.web.refusal(A) is None


async def test_who_has_no_token_is_refused_unasked_until_there_is_one() -> None:
    desk = Desk(SourceLimits(5.0, 5.0))
    assert desk.refused(Verdict.RATE_LIMITED, 0.2) == "rate_limited"
    desk.now += 0.19
    assert desk.web.refusal(A) is Verdict.RATE_LIMITED
    desk.now += 0.02
    assert desk.web.refusal(A) is None
    desk.gate._report()
    assert desk.line.taken() == [], "that takes nothing from an empty bucket"
    desk.refused(Verdict.RATE_LIMITED, 0.2, remember=False)
    assert desk.web.refusal(A) is None, "something else may be the first reason"


async def test_the_first_refusal_by_a_bucket_puts_into_the_box() -> None:
    desk = Desk(SourceLimits(5.0, 5.0, penalty_s=60.0))
    assert desk.refused(Verdict.SUSTAINED_LIMITED, 60.0, remember=False) == "sustained_limited"
    assert desk.web.refusal(A) is Verdict.PENALTY_BOXED


async def test_other_limits_are_asked_for_again() -> None:
    desk = Desk(SourceLimits(5.0, 5.0, penalty_s=60.0))
    desk.refused(Verdict.PENALTY_BOXED, 60.0)
    desk.gate.configure(2, {"web": SourceLimits(5.0, 5.0, penalty_s=60.0)})
    assert desk.web.refusal(A) is Verdict.PENALTY_BOXED, "the same limits"
    desk.gate.configure(3, {"web": SourceLimits(5.0, 6.0, penalty_s=60.0)})
    assert desk.web.refusal(A) is None


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symphony.protection.source_gate._SHUT_SOURCES", 10)
    monkeypatch.setattr("symphony.protection.source_gate._COUNTED_SOURCES", 10)
    desk = Desk(SourceLimits(5.0, 5.0, penalty_s=60.0))
    for number in range(50):
        desk.refused(Verdict.PENALTY_BOXED, 60.0, bytes([number]))
        desk.web.refusal(bytes([number]))
        desk.gate.count("web", bytes([number]), desk.now, False)
    assert len(desk.web.shut) == 10
    desk.now += 2 * REMEMBER_S
    desk.refused(Verdict.PENALTY_BOXED, 60.0, b"new")
    assert set(desk.web.shut) == {b"new"}
    desk.gate._report()
    [told] = desk.line.taken()
    assert isinstance(told, Count) and len(told.attempts) == 10


# ---- decided alone


@pytest.mark.parametrize("reply", [None, Refused("no limits are known for web")])
async def test_without_an_answer_each_acceptor_has_its_share(reply: Refused | None) -> None:
    desk = Desk(SourceLimits(10.0, 8.0), acceptors=2)
    assert [desk.settle(reply) for _ in range(5)] == ["admitted"] * 4 + ["rate_limited"]
    assert desk.alone == 5
    desk.now += 0.2  # five a second
    assert [desk.settle(reply) for _ in range(2)] == ["admitted", "rate_limited"]
    desk.gate._report()
    assert desk.line.taken() == [Count("web", (Attempts(A, 7, 5, 1000.0, pytest.approx(1000.2)),))]


async def test_what_was_let_in_by_the_limiters_word_is_part_of_the_share() -> None:
    desk = Desk(SourceLimits(SLOW, 8.0, 60 * SLOW, 80.0), acceptors=2)
    for _ in range(3):
        desk.settle(Ruling(Verdict.ADMITTED, 0.0))
    assert [desk.settle() for _ in range(2)] == ["admitted", "rate_limited"]


def test_shares() -> None:
    assert share(SourceLimits(8.0, 6.0, 60.0, 30.0, 600.0, 7), 4) == SourceLimits(2.0, 1.5, 15.0, 7.5, 1.0, 0)
    assert share(SourceLimits(1.0, 1.0), 4) == SourceLimits(0.25, 1.0), "one connection each at the least"
    assert share(SourceLimits(per_minute=60.0, per_minute_burst=60.0), 1) == SourceLimits(
        per_minute=60.0, per_minute_burst=60.0
    )


async def test_reports_wait_for_the_limiter() -> None:
    desk = Desk(SourceLimits(10.0, 8.0, max_concurrent=5))
    desk.line.connected = False
    assert desk.settle() == "held"
    assert desk.settle(None, B) == "held"
    desk.gate._report()
    desk.web.release(B)
    desk.gate.configure(2, {"web": SourceLimits(10.0, 9.0, max_concurrent=5)})
    assert desk.line.taken() == []
    desk.line.connected = True
    desk.line.on_up()
    assert desk.line.taken() == [
        Configure(2, (("web", SourceLimits(10.0, 9.0, max_concurrent=5)),)),
        Hold("web", ((A, 1),)),
        Count("web", (Attempts(A, 1, 1, 1000.0, 1000.0), Attempts(B, 1, 1, 1000.0, 1000.0))),
    ]


async def test_what_the_limiter_must_not_miss_is_sent_again_when_there_is_room() -> None:
    desk = Desk(SourceLimits(max_concurrent=5))
    desk.settle(Holding("web", A))
    desk.line.takes = False
    desk.web.release(A)
    await asyncio.sleep(0)
    desk.line.takes = True
    desk.gate._report()
    assert desk.line.taken() == [Release("web", A)]
    desk.line.takes = False
    desk.settle(Holding("web", A))
    desk.web.release(A)
    desk.line.takes = True
    desk.line.on_up()  # another connection, which knows of none
    assert desk.line.taken() == [Configure(1, (("web", SourceLimits(max_concurrent=5)),))]
    desk.gate.close()


# ---- open at once


async def test_an_answer_that_comes_too_late_is_given_back() -> None:
    desk = Desk(SourceLimits(max_concurrent=2))
    assert desk.settle(None) == "held"
    assert desk.line.taken() == [Hold("web", ((A, 1),))]
    desk.line.on_late(Holding("web", A))
    desk.line.on_late(Ruling(Verdict.ADMITTED, 0.0))
    assert desk.line.taken() == [Release("web", A)]
    assert desk.web.held == {A: 1}


async def test_alone_no_more_are_let_in_than_all_acceptors_may_hold() -> None:
    desk = Desk(SourceLimits(max_concurrent=3))
    desk.line.connected = False
    desk.other.take("web", A)
    assert [desk.settle() for _ in range(3)] == ["held", "held", "too_many_connections"]
    assert desk.web.held == {A: 2}
    desk.other.give_back("web", A)
    assert [desk.settle() for _ in range(2)] == ["held", "too_many_connections"]


async def test_while_the_limiter_may_not_know_all_its_word_is_not_enough() -> None:
    desk = Desk(SourceLimits(max_concurrent=2))
    desk.other.take("web", A)
    desk.other.take("web", A)
    assert desk.settle(Holding("web", A)) == "held", "the limiter knows best"
    desk.web.release(A)
    for begin in (desk.line.on_up, desk.line.on_down, lambda: desk.other.doubt_until(desk.now + 1.0)):
        begin()
        desk.line.taken()
        assert desk.settle(Holding("web", A)) == "too_many_connections"
        assert desk.line.taken() == [Release("web", A)]
        desk.now += SETTLED_AFTER_S + 0.1
        assert desk.settle(Holding("web", A)) == "held"
        desk.web.release(A)


async def test_what_is_open_already_is_told() -> None:
    desk = Desk(SourceLimits(max_concurrent=2))
    for _ in range(3):
        desk.web.hold(A)
    assert desk.line.taken() == [Hold("web", ((A, 1),))] * 3
    desk.line.connected = False
    assert desk.settle() == "too_many_connections"
