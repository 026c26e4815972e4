"""The access log: one line for a connection at its end, for all of them or for a random part.

Whether a connection is among them is decided when it is accepted, so that the others pay for nothing but the question.
Each line is the truth about one connection; multiply counts by one over the rate.
"""

from __future__ import annotations

import random
from typing import Any, Protocol

from structlog import get_logger

from symphony.observe.reasons import Reason
from symphony.tls import library

log = get_logger("access")


class Describable(Protocol):
    """A connection."""

    def facts(self) -> dict[str, object]:
        """What a log line says of it."""


class Entry:
    """What the line of one connection will say that nobody else remembers. Times are those of ``time.monotonic``."""

    __slots__ = (
        "accepted_at",
        "alpn",
        "cipher",
        "connected_at",
        "held_until",
        "resumed",
        "shaken_at",
        "version",
    )

    def __init__(self, now: float) -> None:
        self.accepted_at = now
        self.held_until = 0.0
        self.shaken_at = 0.0
        self.connected_at = 0.0
        self.version = ""
        self.cipher = ""
        self.alpn = ""
        self.resumed = False

    def shaken(self, session: Any, now: float) -> None:
        """Take down what the handshake came to, while there is a session to ask."""
        version, cipher, protocol = library.negotiated(session)
        self.version = version.decode("ascii")
        self.cipher = cipher.decode("ascii")
        self.alpn = protocol.decode("ascii", "backslashreplace")
        self.resumed = library.is_resumed(session)
        self.shaken_at = now

    def facts(self, now: float) -> dict[str, object]:
        """The part of the line that stands here; what did not happen is left out."""
        facts: dict[str, object] = {"duration_ms": _ms(now - self.accepted_at)}
        began_at = self.accepted_at
        if self.held_until:
            facts["held_ms"] = _ms(self.held_until - began_at)
            began_at = self.held_until
        if self.shaken_at:
            facts["handshake_ms"] = _ms(self.shaken_at - began_at)
            facts["tls"] = self.version
            facts["cipher"] = self.cipher
            facts["resumed"] = self.resumed
            if self.alpn:
                facts["alpn"] = self.alpn
        if self.connected_at:
            facts["connect_ms"] = _ms(self.connected_at - (self.shaken_at or began_at))
        return facts


class AccessLog:
    """Decides which connections are written down, and writes them. `rate` is the part of them, from 0 to 1."""

    __slots__ = ("rate",)

    def __init__(self) -> None:
        self.rate = 0.0

    def open_entry(self, now: float) -> Entry | None:
        """An entry for a connection that was just accepted, if it is to have one. Only asked with a rate."""
        if self.rate < 1.0 and random.random() >= self.rate:  # noqa: S311 - a sample, not a secret
            return None
        return Entry(now)

    def write(
        self, connection: Describable, entry: Entry, now: float, reason: Reason | None, **more: object
    ) -> None:
        """Write the line of a connection that is over; without a `reason` it ended in order."""
        log.info(
            "connection",
            **connection.facts(),
            **entry.facts(now),
            **more,
            reason="" if reason is None else reason.value,
        )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
