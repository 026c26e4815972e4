"""From a snapshot to what an acceptor serves."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from structlog.testing import capture_logs

from symphony.config.model import TcpUpstream, UdsUpstream, Upstream
from symphony.config.snapshot import ClientAuthority, Identity, ListenerEntry
from symphony.observe.counters import CounterPage
from symphony.observe.record_totals import add_up
from symphony.routing.balancer import Balancer, RoundRobin
from symphony.routing.plan import LONGEST_TURN_S, PlannedRoute, Planner
from symphony.tls import library
from symphony.tls.certificate_maker import make_authority, make_certificate
from tests.support.acceptor import IDENTITY, LISTENER, Tls, route, snapshot

ONE, TWO = UdsUpstream(path="/run/one"), TcpUpstream(host="127.0.0.1", port=9)
_made = make_certificate(["second.test"])
SECOND = Identity(_made.chain_pem, _made.key_pem)
AUTHORITY = make_authority("clients").cert_pem


async def test_everything_of_a_snapshot_is_there() -> None:
    planner = Planner()
    plan = await planner.build(
        snapshot(
            route("localhost", ONE, TWO, rate=5.0, burst=7.0),
            route("*.example.test", TWO, terminate=False),
            route("", ONE, policy=1),
            route("bare.test", ONE, policy=-1),
            version=9,
            max_connections=11,
            idle_timeout_ms=1234,
            buffer_size=32768,
            more=[Tls(SECOND)],
        )
    )
    assert (plan.version, plan.read_buffer_size, len(plan.table)) == (9, 32768, 4)
    index, listener = plan.listeners[LISTENER]
    assert (index, listener.max_connections, listener.idle_timeout_ms) == (0, 11, 1234)
    exact = lookup(plan.table.lookup(b"LocalHost."))
    assert (exact.name, exact.terminate_tls, exact.rate, exact.burst) == ("localhost", True, 5.0, 7.0)
    assert [slot.upstream for slot in exact.balancer.slots] == [ONE, TWO]
    assert exact.contexts[0] is not None
    passthrough = lookup(plan.table.lookup(b"www.example.test"))
    assert (passthrough.terminate_tls, passthrough.contexts) == (False, ())
    default = lookup(plan.table.lookup(None))
    assert default.contexts[0] is not None and default.contexts[0] is not exact.contexts[0]
    assert lookup(plan.table.lookup(b"bare.test")).contexts == (None,)
    assert planner.contexts == 2


def lookup(found: PlannedRoute | None) -> PlannedRoute:
    assert found is not None
    return found


async def test_verify_mode_follows_the_client_authority() -> None:
    plan = await Planner().build(
        snapshot(
            route("none.test", ONE),
            route("required.test", ONE, policy=1),
            route("optional.test", ONE, policy=2),
            more=[
                Tls(authority=ClientAuthority(AUTHORITY, True)),
                Tls(authority=ClientAuthority(AUTHORITY, False)),
            ],
        )
    )
    modes = []
    for name in (b"none.test", b"required.test", b"optional.test"):
        context = lookup(plan.table.lookup(name)).contexts[0]
        assert context is not None
        modes.append(context.verify)
    assert modes == [library.VERIFY_NONE, library.VERIFY_REQUIRED, library.VERIFY_OPTIONAL]


async def test_next_plan_keeps_contexts_and_upstream_slots() -> None:
    planner = Planner()
    first = await planner.build(
        snapshot(route("a.test", ONE, TWO), route("b.test", ONE, policy=1), more=[Tls(SECOND)])
    )
    a = lookup(first.table.lookup(b"a.test"))
    for _ in range(5):
        a.balancer.slots[0].record.begin()
    second = await planner.build(
        snapshot(route("a.test", TWO, ONE), route("new.test", ONE), version=2, http2=False, more=[])
    )
    same = lookup(second.table.lookup(b"a.test"))
    assert same.contexts[0] is a.contexts[0]
    assert [slot.active for slot in same.balancer.slots] == [0, 5]
    assert (
        lookup(second.table.lookup(b"new.test")).contexts[0] is a.contexts[0]
    )  # one per policy, not per route
    assert planner.contexts == 1  # that of the second policy is given up
    assert lookup(first.table.lookup(b"b.test")).contexts[0] is not None  # the old plan is as it was


async def test_next_plan_goes_on_in_turn() -> None:
    planner = Planner()

    async def balancer(version: int, *upstreams: Upstream, **keys: object) -> Balancer:
        entry = msgspec.structs.replace(route("a.test", *upstreams, terminate=False), **keys)
        plan = await planner.build(snapshot(entry, version=version))
        return lookup(plan.table.lookup(b"a.test")).balancer

    first = await balancer(1, ONE, TWO)
    assert await balancer(2, ONE, TWO) is first
    assert await balancer(3, ONE, TWO, number=7, rate=3.0) is first
    second = await balancer(4, ONE, TWO, balance="round_robin")
    assert type(second) is RoundRobin and second.slots == first.slots
    assert await balancer(5, ONE, TWO, balance="round_robin", upstream_numbers=(0, 1)) is not second


async def test_records_follow_the_numbers_of_the_snapshot() -> None:
    pages = [CounterPage([]) for _ in range(2)]
    planner = Planner(pages, 1)
    entry = msgspec.structs.replace(
        route("a.test", ONE, TWO, terminate=False), number=4, upstream_numbers=(9, 2)
    )
    plan = await planner.build(snapshot(entry))
    planned = lookup(plan.table.lookup(b"a.test"))
    planned.record.opened()
    for slot in planned.balancer.slots:
        slot.record.begin()
    assert add_up([page.routes for page in pages], 4, "a.test").active == 1
    assert [add_up([pages[1].upstreams], *of).active for of in ((9, ONE.label), (2, TWO.label))] == [1, 1]


async def test_another_identity_or_offer_is_another_context() -> None:
    planner = Planner()
    contexts = []
    for version, options in enumerate(({}, {"http2": True}, {"identity": SECOND})):
        plan = await planner.build(snapshot(route("a.test", ONE), version=version + 1, **options))  # type: ignore[arg-type]
        contexts.append(lookup(plan.table.lookup(b"a.test")).contexts[0])
    assert len(set(map(id, contexts))) == 3


async def test_broken_identity_costs_its_own_routes_only() -> None:
    broken = Identity(IDENTITY.chain_pem, SECOND.key_pem)
    routes = snapshot(route("good.test", ONE), route("bad.test", ONE, policy=1), more=[Tls(SECOND)])
    digest = routes.policies[1].identity
    routes = msgspec.structs.replace(routes, identities={**routes.identities, digest: broken})
    with capture_logs() as logs:
        plan = await Planner().build(routes)
    assert lookup(plan.table.lookup(b"good.test")).contexts[0] is not None
    assert lookup(plan.table.lookup(b"bad.test")).contexts == (None,)
    assert [line["event"] for line in logs] == ["context_failed"]


async def test_contexts_follow_the_order_of_listeners() -> None:
    entry = snapshot(route("a.test", ONE), more=[Tls(SECOND)])
    second = ListenerEntry("[::1]:443", "::1", 443, 0, 1000, 1000)
    one_route = msgspec.structs.replace(entry.routes[0], policies=(1, -1))
    plan = await Planner().build(
        msgspec.structs.replace(entry, listeners=(*entry.listeners, second), routes=(one_route,))
    )
    contexts = lookup(plan.table.lookup(b"a.test")).contexts
    assert contexts[0] is not None and contexts[1] is None
    assert plan.listeners["[::1]:443"][0] == 1


async def test_building_a_large_snapshot_gives_way_to_other_work() -> None:
    routes = snapshot(*(route(f"r{number}.test", ONE, TWO) for number in range(20_000)))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count_turns())
    await asyncio.sleep(0)
    began, before = time.thread_time(), turns
    plan = await Planner().build(routes)
    took = time.thread_time() - began
    counting.cancel()
    assert len(plan.table) == 20_000
    # A turn is given after every LONGEST_TURN_S; CPU time, since others may be given the CPU in the midst of one.
    assert turns - before > took / (10 * LONGEST_TURN_S)


async def test_suspended_routes() -> None:
    authority = ClientAuthority(AUTHORITY, True)
    plan = await Planner().build(
        snapshot(
            route("held.test", suspend_ms=7, terminate=False),
            route("bare.test", ONE, suspend_ms=8, policy=1),
            route("plain.test", ONE),
            more=[Tls(None, authority)],
        )
    )
    held = lookup(plan.table.lookup(b"held.test"))
    assert held.suspension is not None and held.suspension.timeout_ms == 7
    assert (held.terminate_tls, held.balancer.slots) == (False, ())
    assert held.contexts[0] is not None
    assert held.suspension.tls[0] is not None and held.suspension.tls[0].identity == IDENTITY
    assert "PRIVATE" not in repr(held.suspension.tls)
    bare = lookup(plan.table.lookup(b"bare.test"))
    assert bare.suspension is not None and bare.contexts == (None,)
    tls = bare.suspension.tls[0]
    assert tls is not None and (tls.identity, tls.authority) == (None, authority)
    assert lookup(plan.table.lookup(b"plain.test")).suspension is None

    other = held.resolved(True)
    assert (other.name, other.balancer, other.terminate_tls) == ("held.test", held.balancer, True)
    assert other.suspension is None
    assert held.suspension is not None and held.balancer is not bare.balancer


def test_planned_routes_are_small() -> None:
    with pytest.raises(AttributeError):
        PlannedRoute(route("a", ONE), None, ()).anything = 1  # type: ignore[arg-type,attr-defined]


async def test_routes_of_some_listeners_are_beside_the_table_of_all() -> None:
    replace = msgspec.structs.replace
    base = snapshot(
        route("shared.test", ONE),
        replace(route("own.test", ONE), listeners=(LISTENER,)),
        replace(route("own.test", TWO), listeners=("other:1", "gone:1"), policies=()),
    )
    listeners = (
        *base.listeners,
        replace(base.listeners[0], id="other:1"),
        replace(base.listeners[0], id="plain:1"),
    )
    plan = await Planner().build(replace(base, listeners=listeners))
    assert plan.table_at("plain:1") is plan.table
    assert len(plan.table) == 1
    here, there = plan.table_at(LISTENER), plan.table_at("other:1")
    assert here.lookup(b"shared.test") is there.lookup(b"shared.test") is plan.table.lookup(b"shared.test")
    assert lookup(here.lookup(b"own.test")).name == f"own.test@{LISTENER}"
    assert lookup(there.lookup(b"own.test")).name == "own.test@other:1,gone:1"
    assert plan.table.lookup(b"own.test") is None


async def test_nothing_is_copied_where_no_route_is_a_listener_s_own() -> None:
    plan = await Planner().build(snapshot(route("a.test", ONE), route("", ONE)))
    assert plan.table_at(LISTENER) is plan.table
