"""The book of one acceptor's connections: which are open, how many there were, and why some ended early."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

from structlog import get_logger

from symphony.observe.counters import (
    ACCEPTED,
    ACTIVE,
    BYTES_DOWN,
    BYTES_UP,
    CONNECT_TIME,
    HANDSHAKE_TIME,
    HANDSHAKES,
    LISTENER_DOWN,
    LISTENER_HANDSHAKES,
    LISTENER_REASON_SLOT,
    LISTENER_UP,
    REASON_SLOT,
    RESUMED,
    SUITE_SLOT,
    CounterPage,
)
from symphony.observe.histogram import observe
from symphony.observe.reasons import Reason
from symphony.observe.throttle import Throttle

LINES_PER_SECOND = 20.0

log = get_logger("connection")

_OTHER_SUITE = SUITE_SLOT["other"]
_UPSTREAM_REASONS = frozenset(reason for reason in Reason if reason.value.startswith("upstream_"))


class Abortable(Protocol):
    """A connection, in whatever state. `seat` is the listener that let it in."""

    @property
    def seat(self) -> Any: ...

    def abort(self, reason: Reason) -> None:
        """End at once."""

    def recount(self, seats: Collection[Any]) -> None:
        """Be counted against its source's limit if let in by one of these listeners."""


class Describable(Protocol):
    """A connection that failed."""

    def facts(self) -> dict[str, object]:
        """What a log line says of it."""


class Resting(Abortable, Protocol):
    """A connection that may be between two requests."""

    def leave(self) -> None:
        """End in order: no further request is waited for."""


class Ledger:
    """Counts into a shared page, and knows every open connection so that a stop can wait for them and end them.

    `on_empty` is called whenever the last open connection is over. `resting` are those of the open connections that
    wait for nothing but a next request, if one comes.
    """

    __slots__ = ("_throttle", "on_empty", "open", "page", "resting", "stopping", "values")

    def __init__(self, page: CounterPage) -> None:
        self.page = page
        self.values = page.values
        self.open: set[Abortable] = set()
        self.resting: set[Resting] = set()
        self.stopping = False
        self.on_empty: Callable[[], None] | None = None
        self._throttle = Throttle(LINES_PER_SECOND)

    def opened(self, connection: Abortable, listener_slot: int) -> None:
        """A connection was accepted."""
        values = self.values
        values[ACCEPTED] += 1
        values[ACTIVE] += 1
        values[listener_slot] += 1
        values[listener_slot + 1] += 1
        self.open.add(connection)

    def closed(self, connection: Abortable, listener_slot: int) -> None:
        """A connection is over."""
        values = self.values
        values[ACTIVE] -= 1
        values[listener_slot + 1] -= 1
        self.open.discard(connection)
        if self.on_empty is not None and not self.open:
            self.on_empty()

    def stop(self) -> None:
        """End the connections that rest, now; those that would come to rest see `stopping` and end instead."""
        self.stopping = True
        for connection in tuple(self.resting):
            connection.leave()

    def shaken(self, suite: str, resumed: bool, took_s: float, listener_slot: int) -> None:
        """A handshake has ended well."""
        values = self.values
        values[HANDSHAKES] += 1
        values[listener_slot + LISTENER_HANDSHAKES] += 1
        slot = SUITE_SLOT.get(suite, _OTHER_SUITE)
        if resumed:
            values[RESUMED] += 1
            slot += 1
        values[slot] += 1
        observe(values, HANDSHAKE_TIME, took_s)

    def connected(self, took_s: float) -> None:
        """An upstream was reached."""
        observe(self.values, CONNECT_TIME, took_s)

    def moved(self, up: int, down: int, listener_slot: int) -> None:
        """Add the bytes of a connection."""
        values = self.values
        values[BYTES_UP] += up
        values[BYTES_DOWN] += down
        values[listener_slot + LISTENER_UP] += up
        values[listener_slot + LISTENER_DOWN] += down

    def failed(
        self,
        reason: Reason,
        connection: Describable,
        listener_slot: int,
        *,
        told: bool = False,
        **more: object,
    ) -> None:
        """Count why a connection ended early, and log it unless too many lines were logged just now.

        With `told`, the access log has its line already. What clients do wrong is told at level info, what upstreams do
        wrong at level warning. `more` are facts that the connection does not know itself.
        """
        values = self.values
        values[REASON_SLOT[reason]] += 1
        values[listener_slot + LISTENER_REASON_SLOT[reason]] += 1
        if told:
            return
        left_out = self._throttle.allow()
        if left_out is None:
            return
        facts = {**connection.facts(), **more}
        if left_out:
            facts["left_out"] = left_out
        level = log.warning if reason in _UPSTREAM_REASONS else log.info
        level("connection_failed", reason=reason.value, **facts)
