"""What the connections of one acceptor share: the plan in service, the relay host, the totals, the limiter."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from symphony.connection.access_log import AccessLog
from symphony.connection.held import HoldTable
from symphony.connection.ids import ConnectionIds
from symphony.connection.ledger import Ledger
from symphony.connection.resolver import Resolver
from symphony.observe.block_events import BlockEvents
from symphony.observe.counters import CounterPage
from symphony.observe.events import EventHub
from symphony.protection.cidr import CidrSet
from symphony.protection.guard import Guard
from symphony.protection.penalty import UNLIMITED, SourceLimits
from symphony.protection.source_gate import ListenerGate
from symphony.relay.host import RelayHost
from symphony.relay.lifetime import Silence
from symphony.routing.plan import Plan, PlannedRoute
from symphony.routing.table import Lookup, RouteTable
from symphony.tls.context import BaseContext


class Limiter(Protocol):
    """Decides whether one more connection may pass (:class:`symphony.protection.limiter.RouteLimiter`)."""

    def admit(self, key: str, rate: float, burst: float, callback: Callable[[bool], None]) -> None:
        """Call `callback` with the decision, at once or later, exactly once."""


class Startable(Protocol):
    """A connection that was just accepted."""

    def start(self) -> None:
        """Begin; everything may be over before this returns."""


ConnectionKind = Callable[["ServingState", "ListenerSeat", socket.SocketType, Any], Startable]
"""Makes a connection of a non-blocking socket and its peer's address as ``accept`` gave it."""


class ListenerSeat:
    """A listener as one acceptor serves it; the settings follow the plan in service.

    `index` is the listener's place in the plan, and so in every route's `contexts`; `connection` makes the connections
    that are accepted from now on; `table` has the routes that it serves. `draining`: no connection of it is to wait for
    a further request. `trusted_proxies` is None where clients connect themselves, and not through a proxy that sends
    PROXY headers.
    """

    __slots__ = (
        "_kinds",
        "address",
        "connection",
        "draining",
        "guard",
        "handshake_limit_s",
        "id",
        "index",
        "max_connections",
        "redirect_port",
        "silence",
        "slot",
        "sources",
        "table",
        "trusted_proxies",
    )

    def __init__(
        self,
        listener_id: str,
        address: str,
        slot: int,
        kinds: Mapping[str, ConnectionKind],
        sources: ListenerGate,
    ) -> None:
        """`kinds` has what makes connections, by the listener's mode; `sources` asks who may come in."""
        self._kinds = kinds
        self.connection = kinds["tls"]
        self.redirect_port = 443
        self.id = listener_id
        self.sources = sources
        self.address = address
        self.slot = slot
        self.index = -1
        self.draining = False
        self.max_connections = 0
        self.silence = Silence(0.0, 0.0)
        self.handshake_limit_s = 10.0
        self.guard: Guard | None = None
        self.trusted_proxies: CidrSet | None = None
        self.table: Lookup[PlannedRoute] = RouteTable()

    @property
    def limits(self) -> SourceLimits:
        """What a source may do on this listener."""
        return UNLIMITED if self.guard is None else self.guard.limits

    @property
    def counts_by(self) -> int:
        """The bits of an IPv6 address by which open connections are counted; 0 where they are not."""
        guard = self.guard
        return guard.ipv6_prefix if guard is not None and guard.limits.max_concurrent else 0

    def follow(self, plan: Plan) -> None:
        """Take the settings of `plan`; a listener that is not in it keeps what it has, but for its routes."""
        self.table = plan.table_at(self.id)
        found = plan.listeners.get(self.id)
        if found is None:
            self.index = -1
            return
        self.index, entry = found
        self.max_connections = entry.max_connections
        self.silence = Silence(entry.idle_timeout_ms / 1000, entry.half_close_timeout_ms / 1000)
        self.handshake_limit_s = entry.handshake_timeout_ms / 1000
        self.guard = plan.guards[self.id]
        self.trusted_proxies = CidrSet(entry.trusted_proxies) if entry.trusted_proxies else None
        self.connection = self._kinds[entry.mode]
        self.redirect_port = entry.redirect_port


class ServingState:
    """One per acceptor. `plan` is replaced as a whole."""

    __slots__ = (
        "access_log",
        "base",
        "blocks",
        "events",
        "held",
        "host",
        "ids",
        "ledger",
        "limiter",
        "pages",
        "plan",
        "resolver",
        "room",
    )

    def __init__(
        self,
        host: RelayHost,
        base: BaseContext,
        plan: Plan,
        ledger: Ledger,
        limiter: Limiter,
        pages: Sequence[CounterPage],
        acceptor: str = "acceptor-0",
        room: int = sys.maxsize,
    ) -> None:
        """`pages` are the totals of all acceptors, those of an earlier generation included that still have connections;
        the one that `ledger` writes is among them. `acceptor`: its name. `room`: how many connections it can have open,
        for want of descriptors."""
        self.host = host
        self.base: Any = base.pointer
        self.plan = plan
        self.ledger = ledger
        self.limiter = limiter
        self.pages = pages
        self.resolver = Resolver(host.loop)
        self.room = room
        self.events = EventHub()
        self.access_log = AccessLog()
        self.blocks = BlockEvents(self.events)
        self.held = HoldTable(host.loop.time, self.events)
        self.ids = ConnectionIds(acceptor)

    def is_full(self, seat: ListenerSeat) -> bool:
        """Whether a listener holds more than its `max_connections`, the connection just counted included.

        Each acceptor counts before it looks, so that two which accept at once may both refuse, but never both let
        a connection through that is one too many.
        """
        listener_id = seat.id
        return sum(page.active_at(listener_id) for page in self.pages) > seat.max_connections
