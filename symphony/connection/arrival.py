"""What every connection does first, whatever its listener speaks: it is counted, says who it is, and is let in or not.

A connection is an object whose bound methods are the handlers of its socket. What happens next is which handler is
installed; its :class:`Phase` says where that is, and one entry in the timer wheel bounds each.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from enum import Enum
from time import monotonic
from typing import Any, ClassVar

from symphony.connection import admission
from symphony.connection.access_log import Entry
from symphony.connection.admission import Admission
from symphony.connection.proxy_entry import Entered, ProxyEntry
from symphony.connection.state import ListenerSeat, ServingState
from symphony.observe.counters import BLOCKED_SLOT
from symphony.observe.reasons import Reason
from symphony.routing.plan import PlannedRoute
from symphony.tls.fingerprint import Fingerprints


class Phase(Enum):
    """Where a connection is on its way; what is behind ENTERING is for the kinds of connections to say."""

    ENTERING = "entering"
    PEEKING = "peeking"
    ADMITTING = "admitting"
    HELD = "held"
    SHAKING = "shaking"
    CONNECTING = "connecting"
    RELAYING = "relaying"
    READING = "reading"
    FORWARDING = "forwarding"
    LINGERING = "lingering"
    CLOSED = "closed"


class Arrival:
    """Owns the accepted socket. Made by the accept loop, kept by the ledger.

    `peer` is the client's address: as ``accept`` gave it, or as the PROXY header says that comes first (ENTERING).
    `server_name` is whom the client asks for, as far as that is known.
    """

    __slots__ = (
        "_began",
        "_client",
        "_destination",
        "_entry",
        "_fd",
        "_id",
        "_phase",
        "_proxy",
        "_route",
        "_seat",
        "_state",
        "admission",
        "fingerprints",
        "peer",
        "server_name",
        "timer_tick",
    )

    first_phase: ClassVar[Phase]
    """The one behind ENTERING."""
    name_key: ClassVar[str]
    """What log lines call `server_name`."""

    def __init__(self, state: ServingState, seat: ListenerSeat, client: socket.SocketType, peer: Any) -> None:
        """Take `client`, a non-blocking socket, and its address as ``accept`` gave it."""
        self._state = state
        self._seat = seat
        self._client = client
        self._fd = client.fileno()
        self._phase = self.first_phase
        self._began = monotonic()
        self._entry: Entry | None = None
        self._route: PlannedRoute | None = None
        self._id = ""
        self._proxy: Any = None
        self._destination: tuple[str, int] | None = None
        self.peer = peer
        self.server_name: bytes | None = None
        self.fingerprints: Fingerprints | None = None
        self.admission: Admission | None = None
        self.timer_tick = 0

    @property
    def id(self) -> str:
        """The name in logs, events and PROXY headers, made when first asked for: most never are."""
        if not self._id:
            self._id = self._state.ids.next()
        return self._id

    @property
    def seat(self) -> ListenerSeat:
        """The listener that let it in."""
        return self._seat

    @property
    def is_over(self) -> bool:
        """Whether it is closed."""
        return self._phase is Phase.CLOSED

    def start(self) -> None:
        """Begin; everything may be over before this returns."""
        state, seat = self._state, self._seat
        state.ledger.opened(self, seat.slot)
        if state.access_log.rate:
            self._entry = state.access_log.open_entry(self._began)
        if seat.max_connections and state.is_full(seat):
            self._fail(Reason.MAX_CONNECTIONS)
            return
        if seat.trusted_proxies is None:
            self._begin()
        elif seat.trusted_proxies.contains(self.peer[0]):
            state.host.wheel.schedule(self, seat.handshake_limit_s)
            self._phase = Phase.ENTERING
            ProxyEntry(state.host, self._client, self._entered, self._fail).start()
        else:
            self._fail(Reason.UNTRUSTED_PROXY)

    def _entered(self, entered: Entered) -> None:
        if entered.source is not None:
            self._proxy = self.peer
            self.peer = entered.source
        self._destination = entered.destination
        self._phase = self.first_phase
        self._begin()

    def _begin(self) -> None:
        """Go on with the client's own bytes; from here on `peer` is whom the connection really comes from."""
        guard = self._seat.guard
        if guard is not None:
            admission.begin(self, guard, self._seat.sources)
            if self._phase is Phase.CLOSED:
                return
        if not self.timer_tick:  # not before: who is refused at once needs no time
            self._state.host.wheel.schedule(self, self._seat.handshake_limit_s)
        self._listen()

    def recount(self, seats: Collection[ListenerSeat]) -> None:
        """Be counted as open if let in by one of `seats`, which have a limit on that now."""
        seat = self._seat
        if seat in seats and seat.guard is not None and self._phase not in (Phase.ENTERING, Phase.CLOSED):
            admission.recount(self, seat.guard, seat.sources)

    def facts(self) -> dict[str, object]:
        """What a log line says of this connection. Only called for connections that fail."""
        facts: dict[str, object] = {
            "id": self.id,
            "listener": self._seat.id,
            "peer": f"{self.peer[0]} {self.peer[1]}",
        }
        if self._proxy is not None:
            facts["proxy"] = f"{self._proxy[0]} {self._proxy[1]}"
        if self.server_name is not None:
            facts[self.name_key] = self.server_name.decode("ascii", "backslashreplace")
        if self._route is not None:
            facts["route"] = self._route.name
        ja3, ja4 = ("", "") if self.fingerprints is None else self.fingerprints.known
        if ja3 or ja4:
            facts["ja3"], facts["ja4"] = ja3, ja4
        return facts

    def _count_failure(self, reason: Reason, more: dict[str, object]) -> None:
        """Count why this connection ends, and say it in the log, with `more`, and to those who watch."""
        state, seat = self._state, self._seat
        if state.events.wanted and reason in BLOCKED_SLOT:
            known = ("", "") if self.fingerprints is None else self.fingerprints.known
            state.blocks.tell(reason, seat.id, self.peer[0], self.server_name, known)
        state.ledger.failed(reason, self, seat.slot, told=self._entry is not None, **more)

    # What the kinds of connections say themselves

    def _listen(self) -> None:
        """Take the client's first bytes, as soon as `admission`, if there is one, allows."""
        raise NotImplementedError

    def _fail(self, reason: Reason, detail: str = "") -> None:
        """End with a failure, which the client sees."""
        raise NotImplementedError

    def let_in(self, hello: Any) -> None:
        """Go on: the guard has nothing against it."""
        raise NotImplementedError

    def turn_away(self, reason: Reason, detail: str = "") -> None:
        """End: the guard refuses."""
        self._fail(reason, detail)

    def wait_for_limiter(self) -> None:
        """Watch nothing until the guard has its answer."""
        raise NotImplementedError

    def wait_at_most(self, seconds: float) -> None:
        """End when the ClientHello does not come within `seconds`."""
        raise NotImplementedError

    def abort(self, reason: Reason) -> None:
        """End at once, whatever the phase; both sides see a failure."""
        raise NotImplementedError

    def on_timer(self) -> None:
        """The time for the present phase is up."""
        raise NotImplementedError
