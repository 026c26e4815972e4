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

from actors.runtime import Actor, Birth, CannotRun, run_actor
from symphony.config.snapshot import Snapshot
from symphony.connection import listener_drain
from symphony.connection.accepting import CONNECTION_KINDS, AcceptLoop
from symphony.connection.adoption import ADOPT_AFTER_S, Neighbourhood
from symphony.connection.housekeeping import GarbageClock
from symphony.connection.ledger import Ledger
from symphony.connection.prober import Prober
from symphony.connection.resolution import Resolutions
from symphony.connection.state import ListenerSeat, ServingState
from symphony.connection.tenure import Stage, Tenure
from symphony.host.descriptors import in_use, limit, room_for_connections
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
    ListenerTotals,
    ServeListener,
)
from symphony.messages.events import EventsSubscribed, SubscribeEvents
from symphony.messages.held import ListHeld, ResolveHeld
from symphony.messages.limiter import LimiterReply
from symphony.messages.registry import RegistryReply, RoutesPublished, SnapshotApplied, SubscribeRoutes
from symphony.messages.sampler import CpuReport, SamplerReply, SubscribeCpu
from symphony.messages.totals import DescribeRecords, RecordsDescription
from symphony.messages.upstreams import DescribeUpstreams
from symphony.observe.counters import (
    ACCEPTED,
    ACTIVE,
    BYTES_DOWN,
    BYTES_UP,
    DECIDED_ALONE,
    ROUTE_DECIDED_ALONE,
    ROUTE_DENIED,
    CounterPage,
)
from symphony.observe.events import EventHub
from symphony.observe.reasons import Reason
from symphony.observe.record_area import RecordArea
from symphony.observe.record_reader import read_records
from symphony.protection.hold_cells import Holds
from symphony.protection.limiter import RouteLimiter
from symphony.protection.source_gate import SourceGate
from symphony.protection.source_store import SourceStore
from symphony.protection.sources import SourceTable
from symphony.relay.host import RelayHost, owner_of
from symphony.relay.sockets import shut_reading
from symphony.routing.affinity import AffinityTable
from symphony.routing.describe import describe_upstreams
from symphony.routing.plan import Plan, Planner
from symphony.routing.snapshot_store import SnapshotStore, SnapshotStoreError
from symphony.tls.context import BaseContext

REGISTRY_ANSWERS_WITHIN_S = 0.25
FIRST_SNAPSHOT_WITHIN_S = 5.0
LOOK_EVERY_S = 0.01
"""How often an acceptor that is ready looks whether its generation holds the sockets by now."""
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
        self._neighbours = Neighbourhood(settings.index, len(settings.names))
        self._tenure = settings.tenure or Tenure(len(settings.names), Stage.HOLDING)
        self._planner = Planner(settings.pages, settings.index, settings.closed_upstreams, settings.affinity)
        self._state: ServingState | None = None
        self._prober: Prober | None = None
        self._resolutions: Resolutions | None = None
        self._own: list[AcceptLoop] = []
        self._stored = SnapshotStore(settings.runtime_dir)
        self._adopted: dict[int, list[AcceptLoop]] = {}
        self._stopping = False
        self._newest: Snapshot | None = None
        self._arrived = asyncio.Event()
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

        self._registry = client(settings.registry, RegistryReply)
        self._registry.on_up = self._subscribe_routes
        self._registry.on_push = self._take_routes
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
        self._sampler = client(settings.sampler, SamplerReply)
        self._sampler.on_up = self._subscribe_cpu
        self._sampler.on_push = self._take_samples

    def prepare(self) -> None:
        """Hold on to the snapshot on disk, which another user could not open."""
        try:
            self._stored.hold()
        except SnapshotStoreError as error:
            log.error("stored_snapshot_unusable", error=str(error))

    async def start(self) -> None:
        """Get a first snapshot and begin to accept, or be ready to."""
        self._page.claim()
        self._tenure.note(self._settings.index, accepting=False)
        for client in (self._registry, self._limiter, self._sampler):
            client.start()
        plan = await self._planner.build(await self._first_snapshot())
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
        self._take_up()
        self._applying = self._loop.create_task(self._apply_snapshots(), name="apply snapshots")
        self._garbage.start()

    def _take_up(self) -> None:
        """Begin to accept as soon as the generation holds the sockets."""
        if self._stopping:
            return
        if self._tenure.stage is Stage.AWAITED:
            self._loop.call_later(LOOK_EVERY_S, self._take_up)
            return
        self._own = self._loops(self._settings.index)
        self._tenure.note(self._settings.index, accepting=True)
        self._adopt()

    async def _first_snapshot(self) -> Snapshot:
        """What the registry publishes, or what it left on disk when it does not answer."""
        if await self._has_arrived(REGISTRY_ANSWERS_WITHIN_S) is None:
            try:
                stored = self._stored.load()
            except SnapshotStoreError as error:
                log.error("stored_snapshot_unusable", error=str(error))
                stored = None
            if stored is not None and self._newest is None:
                self._newest = stored.snapshot
                log.warning(
                    "registry_silent", serving="the snapshot on disk", version=stored.snapshot.version
                )
        snapshot = self._newest or await self._has_arrived(FIRST_SNAPSHOT_WITHIN_S)
        if snapshot is None:
            raise CannotRun("no snapshot from the route registry, and none on disk")
        return snapshot

    async def _has_arrived(self, timeout_s: float) -> Snapshot | None:
        try:
            await asyncio.wait_for(self._arrived.wait(), timeout_s)
        except TimeoutError:
            pass
        return self._newest

    async def stop(self, grace: float) -> None:
        """Stop accepting, wait for the open connections, and end those that outlast the grace."""
        self._stopping = True
        self._give_back(frozenset())
        # What waits for sockets that were passed on is served by those who have them now.
        last = self._tenure.stage is Stage.HOLDING
        for loop in self._own:
            loop.stop(take_waiting=last)
        if last:
            # At once: between the last accept and this, nobody else may have been made to wait.
            self._refuse(self._settings.index)
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
        for client in (self._registry, self._limiter, self._sampler):
            await client.close()

    def orphaned(self) -> None:
        """Free the ports: no successor will serve what queues up there, and another instance may want them now."""
        if self._tenure.stage is Stage.HOLDING:
            for index in range(len(self._settings.names)):
                self._refuse(index)

    def _refuse(self, index: int) -> None:
        """Let nobody in any more by the sockets of acceptor `index`, whoever has them open."""
        for seat in self._seats:
            for sock in self._sockets(seat, index):
                shut_reading(sock)

    def _sockets(self, seat: ListenerSeat, index: int) -> Sequence[socket.socket]:
        """The sockets of a listener that acceptor `index` serves: several where there once were more acceptors."""
        return self._settings.sockets[seat.id][index :: len(self._settings.names)]

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
        """Adopt the sockets of a neighbour that is gone, once its successor has had its chance; give them back."""
        if name not in self._settings.names or self._stopping:
            return
        index = self._settings.names.index(name)
        if up:
            self._neighbours.mark_up(index)
            self._give_back(self._neighbours.duties())
        else:
            self._neighbours.mark_down(index)
            self._loop.call_later(ADOPT_AFTER_S, self._adopt)

    def _adopt(self) -> None:
        if self._stopping or not self._own or self._tenure.stage is Stage.PASSED_ON:
            return
        for index in self._neighbours.duties() - self._adopted.keys():
            log.info("adopting", sockets_of=self._settings.names[index])
            self._adopted[index] = self._loops(index)

    def _give_back(self, duties: frozenset[int]) -> None:
        for index in self._adopted.keys() - duties:
            log.info("giving_back", sockets_of=self._settings.names[index])
            for loop in self._adopted.pop(index):
                loop.stop()

    def _loops(self, index: int) -> list[AcceptLoop]:
        """Start to accept on the sockets of acceptor `index`."""
        assert self._state is not None, "accepting needs a plan"
        loops = [
            AcceptLoop(self._state, seat, sock) for seat in self._seats for sock in self._sockets(seat, index)
        ]
        for loop in loops:
            loop.start()
        return loops

    def _subscribe_routes(self) -> None:
        version = self._newest.version if self._newest is not None else 0
        self._registry.cast(SubscribeRoutes(self._name, version))
        self._acknowledge()

    def _subscribe_cpu(self) -> None:
        self._sampler.cast(SubscribeCpu(self._name))

    def _take_routes(self, message: RegistryReply) -> None:
        if isinstance(message, RoutesPublished):
            self._newest = message.snapshot
            self._arrived.set()

    async def _apply_snapshots(self) -> None:
        """Serve the newest snapshot; those that arrive while one is being built are passed over but for the last."""
        state = self._state
        assert state is not None, "snapshots are applied once there is a plan"
        self._acknowledge()
        while True:
            snapshot = self._newest
            if snapshot is None or snapshot.version == state.plan.version:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            try:
                plan = await self._planner.build(snapshot)
            except Exception:
                # The registry has checked it, so this is a fault of ours; what is served now stays served.
                log.exception("snapshot_not_applied", version=snapshot.version)
                self._arrived.clear()
                await self._arrived.wait()
                continue
            recounted = self._enter_service(plan)
            log.info("snapshot_applied", version=snapshot.version, routes=len(state.plan.routes))
            self._acknowledge()
            await self._recount(state, recounted)

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

    def _acknowledge(self) -> None:
        if self._state is not None:
            self._registry.cast(SnapshotApplied(self._name, self._state.plan.version))

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
                return self._read_records(state.plan)
            case DescribeUpstreams(first, at_most):
                return describe_upstreams(state.plan, self._planner.upstreams, first, at_most)
            case ListHeld(after):
                return state.held.page(after)
            case ResolveHeld():
                return resolutions.resolve(message)
            case LeaveListener(id, cut):
                return self._leave_listener(state.ledger, id, cut)
            case ServeListener(id):
                for seat in self._seats_of(id):
                    listener_drain.serve(seat, self._all_loops())
                return ListenerHeeded()

    def _leave_listener(self, ledger: Ledger, id: str, cut: bool) -> ListenerHeeded:
        ended = 0
        for seat in self._seats_of(id):
            # What waits for sockets that were passed on is served by those who have them now.
            if self._tenure.stage is Stage.HOLDING and self._own:
                own = (self._settings.index, *self._adopted)
                sockets = [sock for index in own for sock in self._sockets(seat, index)]
                listener_drain.leave(seat, self._all_loops(), sockets, ledger)
            if cut:
                ended += listener_drain.cut(seat, ledger)
        return ListenerHeeded(ended)

    def _seats_of(self, id: str) -> list[ListenerSeat]:
        return [seat for seat in self._seats if seat.id == id]

    def _all_loops(self) -> list[AcceptLoop]:
        return [*self._own, *(loop for loops in self._adopted.values() for loop in loops)]

    def _subscribe_events(self, events: EventHub, sender: Sender) -> EventsSubscribed:
        events.subscribe(sender)
        sender.on_close(lambda: events.unsubscribe(sender))
        return EventsSubscribed(self._name)

    async def _read_records(self, plan: Plan) -> RecordsDescription:
        """Read what all acceptors have counted for the routes of `plan` and their upstreams."""
        settings = self._settings
        routes, handshake_times = await read_records(
            [page.routes for page in settings.pages],
            settings.closed_routes,
            ((route.name, route.number) for route in plan.routes),
        )
        numbered = {
            upstream.label: number
            for route in plan.routes
            for upstream, number in zip(route.upstreams, route.upstream_numbers, strict=False)
        }
        upstreams, connect_times = await read_records(
            [page.upstreams for page in settings.pages], settings.closed_upstreams, numbered.items()
        )
        impaired = self._planner.upstreams.impaired()
        return RecordsDescription(plan.version, routes, upstreams, handshake_times, connect_times, impaired)

    def _describe(self) -> AcceptorDescription:
        values = self._page.values
        plan = self._state.plan if self._state is not None else None
        return AcceptorDescription(
            name=self._name,
            version=plan.version if plan is not None else 0,
            routes=len(plan.routes) if plan is not None else 0,
            contexts=self._planner.contexts,
            listeners=tuple(
                ListenerTotals(
                    seat.id,
                    seat.address,
                    values[seat.slot],
                    values[seat.slot + 1],
                    self._page.blocked(seat.slot),
                )
                for seat in self._seats
            ),
            accepted=values[ACCEPTED],
            active=values[ACTIVE],
            bytes_up=values[BYTES_UP],
            bytes_down=values[BYTES_DOWN],
            errors=self._page.errors(),
            adopted=tuple(self._settings.names[index] for index in sorted(self._adopted)),
            held=len(self._state.held) if self._state is not None else 0,
            descriptors=in_use(),
            descriptor_limit=limit().soft,
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
