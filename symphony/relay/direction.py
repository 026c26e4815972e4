"""What both relays share: the states of a direction, the time limits, and who is told of the end."""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

from symphony.observe.reasons import Reason

LINGER_S = 2.0
"""How long an upload that nobody wants is discarded after the answer to it is complete."""

IDLE_CHECKS = 4
"""An idle limit is looked at so many times within itself, so it is kept to within a quarter of itself."""


class Direction(Enum):
    """What a direction is doing."""

    FLOWING = 0
    BLOCKED = 1
    ENDING = 2
    DISCARDING = 3
    RESET = 4
    FAILING = 5
    ENDED = 6


class Owner(Protocol):
    """Who is told when a relay is over."""

    def relay_closed(self, relay: Any, reason: Reason | None) -> None:
        """The relay has closed its sockets; `reason` is None for a connection that ended in the ordinary way."""
