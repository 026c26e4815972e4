"""A clock that stands still until a test moves it on."""

from __future__ import annotations

import pytest


class Clock:
    """Tells `now`, in milliseconds."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now


def upstreams_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which upstreams are judged and clients remembered, for the rest of a test."""
    clock = Clock()
    monkeypatch.setattr("symphony.routing.upstream.now_ms", clock)
    monkeypatch.setattr("symphony.routing.balancer.now_ms", clock)
    return clock
