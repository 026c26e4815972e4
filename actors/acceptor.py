"""An acceptor: accepts connections on its own listening sockets and carries them to the upstreams.

It takes snapshots from the registry's mailbox and goes on with what it has while the registry is away; one that starts
while the registry is silent begins with the snapshot on disk. Limits of routes it asks of the rate limiter, load of the
CPU sampler; neither is waited for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from structlog import get_logger

from actors.runtime import Actor, Birth, run_actor
from actors.snapshot_feed import SnapshotFeed
from symphony.connection.accepting import CONNECTION_KINDS
from symphony.connection.describe import describe_acceptor, describe_records
from symphony.connection.housekeeping import GarbageClock
from symphony.connection.ledger import Ledger
from symphony.connection.listening import ListeningSockets
from symphony.connection.prober import Prober
from symphony.connection.resolution import Resolutions
from symphony.connection.state import ListenerSeat, ServingState
from symphony.connection.tenure import Tenure
from symphony.host.descriptors import room_for_connections
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxClient
from symphony.mailbox.envelope import Refused
from symphony.mailbox.server import MailboxServer, Sender
from symphony.messages.acceptor import (
    AcceptorDescription,
    AcceptorReply,
    AcceptorRequest,
    DescribeAcceptor,
    LeaveListener,
    ListenerHeeded,
    ServeListener,
)
from symphony.messages.events import EventsSubscribed, SubscribeEvents
from symphony.messages.held import ListHeld, ResolveHeld
from symphony.messages.limiter import LimiterReply
from symphony.messages.sampler import CpuReport, SamplerReply, SubscribeCpu
from symphony.messages.totals import DescribeRecords, RecordsDescription
from symphony.messages.upstreams import DescribeUpstreams
from symphony.observe.counters import (
    DECIDED_ALONE,
    ROUTE_DECIDED_ALONE,
    ROUTE_DENIED,
    CounterPage,
)
from symphony.observe.events import EventHub
from symphony.observe.reasons import Reason
from symphony.observe.record_area import RecordArea
from symphony.protection.hold_cells import Holds
from symphony.protection.limiter import RouteLimiter
from symphony.protection.source_gate import SourceGate
from symphony.protection.source_store import SourceStore
from symphony.protection.sources import SourceTable
from symphony.relay.host import RelayHost, owner_of
from symphony.routing.affinity import AffinityTable
from symphony.routing.describe import describe_upstreams
from symphony.routing.plan import Plan, Planner
from symphony.tls.context import BaseContext

ABORT_BEFORE_END_S = 0.25
"""How long before its grace is over a stopping acceptor ends what is still open, so that it can say so."""

RECOUNTED_AT_ONCE = 100

log = get_logger("acceptor")


@dataclass(frozen=True, slots=True)
class AcceptorSettings:
    """What an acceptor is given by the process that forked it.

    `sockets` maps a listener's id to its listening sockets, at least one per acceptor; `addresses` to its address as
    bound; `pages` and `names` have one entry per acceptor of its generation, and `index` is this acceptor's place among
    them. Pages of earlier generations that are not gone yet may follow. `tenure` (None: it holds the sockets) says
    what the generation may do with them. `sources` (None: nobody else's) is what all acceptors know of sources.
    """

    runtime_dir: str
    index: int
    names: tuple[str, ...]
    sockets: Mapping[str, Sequence[socket.socket]]
    addresses: Mapping[str, str]
    base: BaseContext
    pages: Sequence[CounterPage]
    tenure: Tenure | None = None
    closed_upstreams: RecordArea | None = None
    closed_routes: RecordArea | None = None
    affinity: AffinityTable | None = None
    sources: SourceStore | None = None
    registry: str = "route-registry"
    limiter: str = "rate-limiter"
    sampler: str = "cpu-sampler"


class Acceptor(Actor):
    """Answers in its mailbox what it does and holds; everything else it does on its listening sockets."""

    def __init__(self, settings: AcceptorSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._page = settings.pages[settings.index]
        self._planner = Planner(settings.pages, settings.index, settings.closed_upstreams, settings.affinity)
        self._state: ServingState | None = None
        self._prober: Prober | None = None
        self._resolutions: Resolutions | None = None
        self._applying: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_report)
        self._loop = loop
        self._garbage = GarbageClock(loop)
        self.mailbox = MailboxServer(
            mailbox_path(settings.runtime_dir, name),
            AcceptorRequest,
            self._answer,
            from_workers=(DescribeAcceptor, DescribeRecords, DescribeUpstreams),
        )

        def client(actor: str, replies: Any) -> MailboxClient:
            return MailboxClient(mailbox_path(settings.runtime_dir, actor), replies, name=actor)

        self._feed = SnapshotFeed(settings.runtime_dir, settings.registry, name)
        self._limiter = client(settings.limiter, LimiterReply)
        holds = Holds(settings.index, [page.holds for page in settings.pages])
        table = SourceTable(settings.sources or SourceStore(), holds)
        alone = partial(self._note, DECIDED_ALONE)
        self._gate = SourceGate(self._limiter, len(settings.names), table, alone)
        self._seats = [
            ListenerSeat(
                id,
                settings.addresses[id],
                self._page.listener_slot(id),
                CONNECTION_KINDS,
                self._gate.listener(id),
            )
            for id in settings.sockets
        ]
        self._listening = ListeningSockets(
            settings.index, settings.names, self._seats, settings.sockets, settings.tenure
        )
        self._sampler = client(settings.sampler, SamplerReply)
        self._sampler.on_up = self._subscribe_cpu
        self._sampler.on_push = self._take_samples

    def prepare(self) -> None:
        """Hold on to the snapshot on disk, which another user could not open."""
        self._feed.hold_stored()

    async def start(self) -> None:
        """Get a first snapshot and begin to accept, or be ready to."""
        self._page.claim()
        for client in (self._feed, self._limiter, self._sampler):
            client.start()
        plan = await self._planner.build(await self._feed.first())
        settings = self._settings
        limiter = RouteLimiter(
            self._limiter,
            len(settings.names),
            on_alone=partial(self._note, ROUTE_DECIDED_ALONE),
            on_denied=partial(self._note, ROUTE_DENIED),
        )
        host = RelayHost(self._loop, plan.read_buffer_size, _end_owner)
        ledger = Ledger(self._page)
        self._state = ServingState(
            host, settings.base, plan, ledger, limiter, settings.pages, self._name, room_for_connections()
        )
        self._resolutions = Resolutions(self._state.held, self._planner.upstreams)
        self._prober = Prober(
            self._loop, self._planner.upstreams, self._state.resolver, settings.index, len(settings.names)
        )
        self._enter_service(plan)
        self._prober.start()
        self._listening.take_up(self._state)
        self._applying = self._loop.create_task(self._apply_snapshots(), name="apply snapshots")
        self._garbage.start()

    async def stop(self, grace: float) -> None:
        """Stop accepting, wait for the open connections, and end those that outlast the grace."""
        self._listening.stop()
        state = self._state
        if state is not None:
            state.held.close()
            await self._drain(state, grace - ABORT_BEFORE_END_S)
            state.resolver.close()
            state.host.close()
        if self._prober is not None:
            self._prober.stop()
        if self._applying is not None:
            self._applying.cancel()
        self._garbage.stop()
        self._gate.close()
        for client in (self._feed, self._limiter, self._sampler):
            await client.close()

    def orphaned(self) -> None:
        self._listening.abandon()

    async def _drain(self, state: ServingState, patience_s: float) -> None:
        ledger = state.ledger
        ledger.stop()
        emptied = asyncio.Event()
        ledger.on_empty = emptied.set
        if ledger.open:
            try:
                await asyncio.wait_for(emptied.wait(), max(0.0, patience_s))
            except TimeoutError:
                log.warning("drain_timeout", ended=len(ledger.open))
                for connection in tuple(ledger.open):
                    connection.abort(Reason.DRAIN_TIMEOUT)

    def sibling(self, name: str, up: bool) -> None:
        self._listening.neighbour(name, up)

    def _subscribe_cpu(self) -> None:
        self._sampler.cast(SubscribeCpu(self._name))

    async def _apply_snapshots(self) -> None:
        """Serve the newest snapshot; those that arrive while one is being built are passed over but for the last."""
        state = self._state
        assert state is not None, "snapshots are applied once there is a plan"
        self._feed.served(state.plan.version)
        failed = None
        while True:
            snapshot = await self._feed.other_than(state.plan.version, failed)
            try:
                plan = await self._planner.build(snapshot)
            except Exception:
                # The registry has checked it, so this is a fault of ours; what is served now stays served.
                log.exception("snapshot_not_applied", version=snapshot.version)
                failed = snapshot
                continue
            recounted = self._enter_service(plan)
            log.info("snapshot_applied", version=snapshot.version, routes=len(state.plan.routes))
            await self._recount(state, recounted)
            # Last: whoever has asked for the change may rely on it from now on.
            self._feed.served(snapshot.version)

    def _enter_service(self, plan: Plan) -> frozenset[ListenerSeat]:
        """Serve by `plan` from now on; return the listeners that count open connections otherwise than before."""
        state = self._state
        assert state is not None, "a plan needs a state to serve in"
        state.plan = plan
        self.own_grace_s = plan.drain_timeout_s
        state.host.resize_buffer(plan.read_buffer_size)
        state.access_log.rate = plan.access_log_rate
        counted = {seat: seat.counts_by for seat in self._seats}
        for seat in self._seats:
            seat.follow(plan)
        if self._prober is not None:
            self._prober.follow(plan.checks)
        self._gate.configure(plan.version, {seat.id: seat.limits for seat in self._seats})
        return frozenset(seat for seat in self._seats if seat.counts_by not in (0, counted[seat]))

    async def _recount(self, state: ServingState, seats: frozenset[ListenerSeat]) -> None:
        """Count what is open already, in turns, where a limit on that is new."""
        if seats:
            for at, connection in enumerate(tuple(state.ledger.open), 1):
                connection.recount(seats)
                if at % RECOUNTED_AT_ONCE == 0:
                    await asyncio.sleep(0)

    def _note(self, slot: int) -> None:
        self._page.values[slot] += 1

    def _take_samples(self, message: SamplerReply) -> None:
        if isinstance(message, CpuReport):
            self._planner.upstreams.take_samples(message.samples)

    def _answer(self, message: AcceptorRequest, sender: Sender) -> AcceptorReply | Awaitable[AcceptorReply]:
        if isinstance(message, DescribeAcceptor):
            return self._describe()
        state, resolutions = self._state, self._resolutions
        if state is None or resolutions is None:
            return Refused("no connections are taken yet")
        match message:
            case SubscribeEvents():
                return self._subscribe_events(state.events, sender)
            case DescribeRecords():
                return self._describe_records(state.plan)
            case DescribeUpstreams(first, at_most):
                return describe_upstreams(state.plan, self._planner.upstreams, first, at_most)
            case ListHeld(after):
                return state.held.page(after)
            case ResolveHeld():
                return resolutions.resolve(message)
            case LeaveListener(id, cut):
                return ListenerHeeded(self._listening.leave(id, cut=cut))
            case ServeListener(id):
                self._listening.serve(id)
                return ListenerHeeded()

    def _subscribe_events(self, events: EventHub, sender: Sender) -> EventsSubscribed:
        events.subscribe(sender)
        sender.on_close(lambda: events.unsubscribe(sender))
        return EventsSubscribed(self._name)

    def _describe_records(self, plan: Plan) -> Awaitable[RecordsDescription]:
        settings = self._settings
        return describe_records(
            plan, self._planner.upstreams, settings.pages, settings.closed_routes, settings.closed_upstreams
        )

    def _describe(self) -> AcceptorDescription:
        state = self._state
        return describe_acceptor(
            self._name,
            self._page,
            self._seats,
            state.plan if state is not None else None,
            contexts=self._planner.contexts,
            adopted=self._listening.adopted,
            held=len(state.held) if state is not None else 0,
        )


def _end_owner(error: BaseException) -> None:
    """End the connection whose handler failed: its descriptor stays ready, and it would fail for ever."""
    log.error("handler_failed", exc_info=error)
    owner = owner_of(error)
    if owner is not None:
        owner.abort(Reason.INTERNAL_ERROR)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The event loop's exception handler: for what no handler of a connection raised."""
    error = context.get("exception")
    log.error("callback_failed", during=context.get("message"), exc_info=error)


def run_acceptor(birth: Birth, settings: AcceptorSettings) -> None:
    """Be an acceptor's process."""
    run_actor(birth, lambda: Acceptor(settings, birth.name))
