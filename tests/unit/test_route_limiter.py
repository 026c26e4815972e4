"""The acceptor's own decisions, when no rate limiter answers."""

from __future__ import annotations

from collections import Counter

import pytest

from symphony.mailbox.client import MailboxClient
from symphony.messages.limiter import LimiterReply
from symphony.protection.limiter import RouteLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def admitted(limiter: RouteLimiter, times: int, rate: float, burst: float) -> int:
    """Ask with nobody there: the answers come before `admit` returns."""
    answers: list[bool] = []
    for _ in range(times):
        limiter.admit("a", rate, burst, answers.append)
    assert len(answers) == times
    return sum(answers)


def alone(acceptors: int, clock: Clock) -> RouteLimiter:
    return RouteLimiter(MailboxClient("/nowhere/rate-limiter.sock", LimiterReply), acceptors, clock)


def test_share_of_burst_and_rate() -> None:
    clock = Clock()
    told: Counter[str] = Counter()
    limiter = RouteLimiter(
        MailboxClient("/nowhere/rate-limiter.sock", LimiterReply),
        4,
        clock,
        on_alone=lambda: told.update(["alone"]),
        on_denied=lambda: told.update(["denied"]),
    )
    assert admitted(limiter, 20, rate=8.0, burst=12.0) == 3
    clock.now += 1.0
    assert admitted(limiter, 20, rate=8.0, burst=12.0) == 2
    assert told == {"alone": 40, "denied": 35}


def test_a_share_below_one_connection_still_lets_some_in_and_never_more_than_the_limit() -> None:
    clock = Clock()
    limiters = [alone(4, clock) for _ in range(4)]
    total = 0
    for step in range(200):
        total += sum(admitted(limiter, 2, rate=2.0, burst=1.0) for limiter in limiters)
        assert total <= 1.0 + 2.0 * step * 0.1 + 1e-6
        clock.now += 0.1
    assert total >= 2.0 * 199 * 0.1 - 4


def test_acceptors_must_be_some() -> None:
    with pytest.raises(ValueError, match="at least one"):
        alone(0, Clock())
