"""A snapshot made ready to serve: route table, balancers and TLS contexts.

A plan is built beside the one in service and put in its place by one assignment. A connection keeps the route it
began with, so nothing in flight sees the change.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from itertools import compress

from OpenSSL import SSL
from structlog import get_logger

from symphony.config.model import Fingerprint, SourceAddressHeader, UpstreamMode
from symphony.config.snapshot import ListenerEntry, RouteEntry, Snapshot, TlsPolicy
from symphony.observe.counters import CounterPage
from symphony.observe.record_area import RecordArea
from symphony.observe.records import RecordBook, RouteRecord
from symphony.protection.cidr import CidrSet
from symphony.protection.guard import Guard, make_guard
from symphony.routing.affinity import AffinityTable
from symphony.routing.balancer import Balancer
from symphony.routing.checks import CheckTarget, check_target
from symphony.routing.pool import UpstreamPool
from symphony.routing.suspension import Suspension, suspension_of
from symphony.routing.table import ListenerTable, Lookup, RouteTable
from symphony.routing.upstream import UpstreamSlot
from symphony.tls.context import RouteContext

LONGEST_TURN_S = 0.002
"""Building goes on in turns of this length, so that a large snapshot never holds up the connections."""

HTTP2 = "h2"
"""The `protocol` of upstreams that are for clients with HTTP/2 only, and the name of that in ALPN (RFC 9113)."""

log = get_logger("plan")

Balancers = tuple[Balancer, Balancer | None]
"""Those of a route: for all clients but the ones with HTTP/2, and for these where they have upstreams of their own."""


Modes = Mapping[str, UpstreamMode]
"""What an operator says of a route's upstreams, by their labels."""


class PlannedRoute:
    """A route as connections use it. `contexts` has one TLS context (or None) per listener, in their order.

    `balancer` has the route's upstreams, but for those that are only for clients with HTTP/2: `http2_balancer` has
    these, and is None where there are none.

    The upstream is told of the client by a PROXY header of the kind `proxy_header`, unless that is None, or by fields
    of every HTTP request where the route `rewrites_http`, which a connection that is passed through cannot have.
    With a `suspension`, what it says of upstreams and TLS is only what a resolution may fall back on.
    """

    __slots__ = (
        "balancer",
        "burst",
        "contexts",
        "forward_fingerprint",
        "http2_balancer",
        "name",
        "proxy_header",
        "rate",
        "record",
        "rewrites_http",
        "suspension",
        "terminate_tls",
    )

    def __init__(
        self,
        entry: RouteEntry,
        balancer: Balancer,
        contexts: tuple[RouteContext | None, ...],
        suspension: Suspension | None = None,
        record: RouteRecord | None = None,
        http2_balancer: Balancer | None = None,
    ) -> None:
        """Without a `record`, the route's connections are counted by this route alone."""
        self.name = entry.name
        self.balancer = balancer
        self.http2_balancer = http2_balancer
        self.record = record if record is not None else RouteRecord(self.name)
        self.contexts = contexts
        self.terminate_tls = entry.terminate_tls
        self.rate = entry.rate
        self.burst = entry.burst
        self._tell_by(entry.source_address_header)
        self.forward_fingerprint = entry.forward_fingerprint
        self.suspension = suspension

    def resolved(
        self,
        terminate_tls: bool,
        header: SourceAddressHeader | None = None,
        fingerprints: tuple[Fingerprint, ...] | None = None,
    ) -> PlannedRoute:
        """The same route with another way to go, for one connection that was held; None leaves what it says."""
        route = copy(self)
        route.terminate_tls = terminate_tls
        route.suspension = None
        if header is not None:
            route._tell_by(header)
        if fingerprints is not None:
            route.forward_fingerprint = fingerprints
        return route

    def _tell_by(self, header: SourceAddressHeader) -> None:
        self.rewrites_http = header == "x_forwarded_for"
        self.proxy_header = header if header in ("proxy_protocol", "proxy_protocol_v2") else None


class Plan:
    """What an acceptor serves: one version of everything. `guards` has one per listener, None for no protection.

    `table` has the routes that all listeners have, `own_tables` those that only some have, by the listeners' ids.
    `checks` has the upstreams that are checked, by their labels: the first of several entries for one decides how.
    """

    __slots__ = (
        "_tables",
        "access_log_rate",
        "checks",
        "drain_timeout_s",
        "guards",
        "listeners",
        "modes",
        "read_buffer_size",
        "routes",
        "table",
        "version",
    )

    def __init__(
        self,
        snapshot: Snapshot,
        table: RouteTable[PlannedRoute],
        guards: Mapping[str, Guard | None],
        checks: Mapping[str, CheckTarget],
        own_tables: Mapping[str, RouteTable[PlannedRoute]] | None = None,
    ) -> None:
        self.version = snapshot.version
        self.read_buffer_size = snapshot.read_buffer_size
        self.access_log_rate = snapshot.access_log_rate
        self.drain_timeout_s = snapshot.drain_timeout_ms / 1000
        self.listeners: dict[str, tuple[int, ListenerEntry]] = {
            entry.id: (index, entry) for index, entry in enumerate(snapshot.listeners)
        }
        self.routes = snapshot.routes
        self.modes = _modes(snapshot)
        self.table = table
        self._tables = {id: ListenerTable(table, own) for id, own in (own_tables or {}).items()}
        self.guards = guards
        self.checks = checks

    def table_at(self, listener: str) -> Lookup[PlannedRoute]:
        """The routes of the listener with this id."""
        return self._tables.get(listener, self.table)


class Planner:
    """Builds plans, and carries over what does not change from one to the next: contexts, balancers, records."""

    def __init__(
        self,
        pages: Sequence[CounterPage] = (),
        index: int = 0,
        closed_upstreams: RecordArea | None = None,
        affinity: AffinityTable | None = None,
    ) -> None:
        """`pages` are those of all acceptors, of which this one is number `index`; none: nothing is shared.

        `closed_upstreams` has what acceptors that are gone for good have counted for upstreams; `affinity` remembers
        clients for all acceptors.
        """
        self.upstreams = UpstreamPool([page.upstreams for page in pages], index, closed_upstreams, affinity)
        areas = [page.routes for page in pages]
        self._records = RecordBook(RouteRecord, areas, areas[index] if areas else None)
        self._balancers: dict[str, tuple[RouteEntry, Modes, Balancers]] = {}
        self._contexts: dict[TlsPolicy, RouteContext] = {}
        self._networks: dict[str, CidrSet] = {}
        self._turn_began = 0.0

    @property
    def contexts(self) -> int:
        """How many TLS contexts the latest plan has."""
        return len(self._contexts)

    async def build(self, snapshot: Snapshot) -> Plan:
        """Build a plan, giving way to other work every :data:`LONGEST_TURN_S` seconds."""
        self._turn_began = time.monotonic()
        contexts = await self._build_contexts(snapshot)
        by_index: Sequence[RouteContext | None] = [contexts.get(policy) for policy in snapshot.policies]
        table: RouteTable[PlannedRoute] = RouteTable()
        own_tables: dict[str, RouteTable[PlannedRoute]] = {}
        balancers: dict[str, tuple[RouteEntry, Modes, Balancers]] = {}
        checks: dict[str, CheckTarget] = {}
        modes = _modes(snapshot)
        for entry in snapshot.routes:
            chosen = tuple(by_index[at] if at >= 0 else None for at in entry.policies)
            name = entry.name
            said = modes.get(name, {})
            both = self._balancers_of(entry, name, said)
            balancers[name] = entry, said, both
            balancer, http2_balancer = both
            record = self._records.record(name, entry.number)
            for slot in _slots(balancer, http2_balancer):
                if slot.upstream.health_check is not None:
                    settings = slot.upstream.health_check
                    target = check_target(name, slot, settings, entry.source_address_header)
                    checks.setdefault(target.record.key, target)
            suspension = suspension_of(entry, snapshot)
            planned = PlannedRoute(entry, balancer, chosen, suspension, record, http2_balancer)
            if not entry.listeners:
                table.add(entry.sni, planned)
            for listener in entry.listeners:
                own_tables.setdefault(listener, RouteTable()).add(entry.sni, planned)
            await self._give_way()
        guards = await self._build_guards(snapshot)
        self._contexts, self._balancers = contexts, balancers
        self.upstreams.forget_gone()
        return Plan(snapshot, table, guards, checks, own_tables)

    async def _build_guards(self, snapshot: Snapshot) -> dict[str, Guard | None]:
        networks: dict[str, CidrSet] = {}
        for digest, packed in snapshot.networks.items():
            known = self._networks.get(digest)
            # Unpacking takes 0.5 s per million networks: too long to hold up the connections.
            networks[digest] = await asyncio.to_thread(CidrSet.from_bytes, packed) if known is None else known
        self._networks = networks
        return {entry.id: make_guard(entry.protection, networks) for entry in snapshot.listeners}

    def _balancers_of(self, entry: RouteEntry, name: str, modes: Modes) -> Balancers:
        """Those of the plan before where they would be the same: a reload is not to begin all turns anew."""
        known = self._balancers.get(name)
        if known is not None:
            before, said, balancers = known
            if (entry.upstreams, entry.upstream_numbers, entry.balance, modes) == (
                before.upstreams,
                before.upstream_numbers,
                before.balance,
                said,
            ):
                return balancers
        upstreams, numbers, pool = entry.upstreams, entry.upstream_numbers, self.upstreams
        if not any(upstream.protocol == HTTP2 for upstream in upstreams):
            return pool.balancer(upstreams, numbers, entry.balance, name, modes), None
        marked = [upstream.protocol == HTTP2 for upstream in upstreams]
        others = [not mark for mark in marked]
        first = upstreams[0]
        return (
            pool.balancer(
                compress(upstreams, others), [*compress(numbers, others)], entry.balance, name, modes, first
            ),
            # Clients are remembered apart: one may use HTTP/2 now and then.
            pool.balancer(
                compress(upstreams, marked),
                [*compress(numbers, marked)],
                entry.balance,
                f"{name} h2",
                modes,
                first,
            ),
        )

    async def _build_contexts(self, snapshot: Snapshot) -> dict[TlsPolicy, RouteContext]:
        contexts: dict[TlsPolicy, RouteContext] = {}
        for policy in snapshot.policies:
            if not policy.identity:
                continue  # a suspended route's, which has no certificate of its own
            context = self._contexts.get(policy)
            if context is None:
                authority = snapshot.client_authorities.get(policy.client_authority)
                try:
                    context = RouteContext(policy, snapshot.identities[policy.identity], authority)
                except (ValueError, SSL.Error) as error:
                    # The registry has checked it; a library that disagrees costs this certificate's routes only.
                    log.error("context_failed", identity=policy.identity, error=str(error))
                    continue
            contexts[policy] = context
            await self._give_way()
        return contexts

    async def _give_way(self) -> None:
        if time.monotonic() - self._turn_began > LONGEST_TURN_S:
            await asyncio.sleep(0)
            self._turn_began = time.monotonic()


def _slots(balancer: Balancer, http2_balancer: Balancer | None) -> Iterator[UpstreamSlot]:
    for one in (balancer, http2_balancer):
        if one is not None:
            yield from (*one.slots, *one.reserve)


def _modes(snapshot: Snapshot) -> dict[str, Modes]:
    """What an operator says, by route."""
    modes: dict[str, dict[str, UpstreamMode]] = {}
    for override in snapshot.overrides:
        modes.setdefault(override.route, {})[override.upstream] = override.mode
    return dict(modes)
