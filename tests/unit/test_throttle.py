"""The bound on how often something is told."""

from __future__ import annotations

import time

import pytest

from symphony.observe.throttle import Throttle


def test_so_many_a_second_and_then_says_how_many_were_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.2]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    throttle = Throttle(3)
    assert [throttle.allow() for _ in range(6)] == [0, 0, 0, None, None, None]
    now[0] = 100.9
    assert throttle.allow() is None
    now[0] = 101.0
    assert [throttle.allow() for _ in range(5)] == [4, 0, 0, None, None]
    now[0] = 107.5
    assert throttle.allow() == 2
    assert throttle.allow() == 0


def test_by_the_real_clock() -> None:
    throttle = Throttle(5)
    told = 0
    left_out = 0
    began = time.monotonic()
    while time.monotonic() - began < 1.2:
        answer = throttle.allow()
        if answer is None:
            left_out += 1
        else:
            told += 1
            left_out -= answer
    assert 10 <= told <= 15  # in two or three seconds of the clock
    assert left_out > 0
