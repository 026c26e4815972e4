"""The table of held connections, and what is carried out on them, with connections that only take notes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import symphony.connection.resolution
from symphony.config.model import UdsUpstream
from symphony.config.snapshot import Identity
from symphony.connection.held import PAGE, Held, HoldTable
from symphony.connection.resolution import Resolutions
from symphony.mailbox.envelope import Refused
from symphony.messages.events import Event, Released, Suspended
from symphony.messages.held import HeldResolved, HeldRoute, ResolveHeld
from symphony.observe.events import EventHub
from symphony.observe.reasons import Reason
from symphony.routing.plan import PlannedRoute, Planner
from symphony.tls.certificate_maker import make_certificate
from symphony.tls.context import RouteContext
from tests.support.acceptor import route, snapshot

UPSTREAM = UdsUpstream(path="/run/app.sock")


class Note:
    """A connection that notes what becomes of it, and tells the table of its end as a real one does."""

    def __init__(self, id: str, table: HoldTable) -> None:
        self.id = id
        self.peer = ("192.0.2.1", 4711)
        self.server_name: bytes | None = None
        self.ended: Reason | None = None
        self.went: tuple[PlannedRoute, RouteContext | None] | None = None
        self._table = table

    def forward(self, route: PlannedRoute, context: RouteContext | None) -> None:
        assert self.ended is None and self.went is None
        self.went = route, context

    def abort(self, reason: Reason) -> None:
        assert self.ended is None and self.went is None
        self.ended = reason
        self._table.ended(self.id, reason)


class Bench:
    """A table with its events, and a planned route to hold connections of."""

    def __init__(self, planned: PlannedRoute, *, wanted: bool = True) -> None:
        self.now = 100.0
        self.events: list[Event] = []
        self.hub = EventHub()
        if wanted:
            self.hub.subscribe(self)
        self.table = HoldTable(lambda: self.now, self.hub)
        self.planned = planned
        self.sock, self.peer = socket.socketpair()
        self.sock.setblocking(False)

    def push(self, message: Event) -> bool:
        self.events.append(message)
        return True

    def hold(self, id: str) -> Note:
        note = Note(id, self.table)
        assert self.planned.suspension is not None
        held = Held(note, "listener", 0, self.planned, self.planned.suspension, self.sock)
        self.table.add(held)
        return note

    def listed(self) -> list[str]:
        """The ids on all pages."""
        found: list[str] = []
        after = 0
        while True:
            page = self.table.page(after)
            assert len(page.held) <= PAGE
            found += [held.id for held in page.held]
            after = page.next
            if not after:
                return found

    def close(self) -> None:
        self.sock.close()
        self.peer.close()


@pytest.fixture(scope="module")
def planned() -> PlannedRoute:
    plan = asyncio.run(Planner().build(snapshot(route("a.test", suspend_ms=5000))))
    found = plan.table.lookup(b"a.test")
    assert found is not None
    return found


@pytest.fixture
def bench(planned: PlannedRoute) -> Iterator[Bench]:
    bench = Bench(planned)
    yield bench
    bench.close()


def test_each_end_has_its_word(bench: Bench, planned: PlannedRoute) -> None:
    notes = {name: bench.hold(name) for name in ("a", "b", "c", "d", "e")}
    assert len(bench.table) == 5
    for name, reason in (
        ("a", Reason.REJECTED),
        ("b", Reason.SUSPEND_TIMEOUT),
        ("c", Reason.LEFT_WHILE_HELD),
        ("d", Reason.INTERNAL_ERROR),
    ):
        notes[name].abort(reason)
    held = bench.table.find("e")
    assert held is not None
    bench.table.forward(held, planned, None)
    assert notes["e"].went == (planned, None)
    assert bench.events[5:] == [
        Released("a", "rejected"),
        Released("b", "expired"),
        Released("c", "left"),
        Released("d", "aborted"),
        Released("e", "forwarded"),
    ]
    assert len(bench.table) == 0 and bench.table.find("e") is None
    bench.table.ended("e", Reason.CLIENT_RESET)  # later, while it was connected to its upstream
    assert len(bench.events) == 10


def test_what_is_told_of_one(bench: Bench) -> None:
    note = bench.hold("a")
    note.server_name = b"A.test\xff"
    bench.now += 1.25
    (held,) = bench.table.page(0).held
    assert held == Suspended(
        "a", "listener", "a.test", "A.test\\xff", "192.0.2.1", 4711, "", "", 5000, held_ms=1250
    )


def test_nobody_listens_and_nothing_is_told(planned: PlannedRoute) -> None:
    bench = Bench(planned, wanted=False)
    bench.hold("a").abort(Reason.REJECTED)
    bench.hold("b")
    assert bench.listed() == ["b"]
    bench.close()


def test_closing_ends_all_and_whoever_comes_later(bench: Bench) -> None:
    notes = [bench.hold(str(number)) for number in range(3)]
    bench.table.close()
    late = bench.hold("late")
    assert {note.ended for note in (*notes, late)} == {Reason.STOPPED_WHILE_HELD}
    assert len(bench.table) == 0
    assert [event for event in bench.events if isinstance(event, Released)] == [
        Released(str(number), "aborted") for number in range(3)
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 300)), max_size=300), st.integers(0, 200))
def test_pages_list_all_in_order_whoever_leaves(
    planned: PlannedRoute, steps: list[tuple[bool, int]], first: int
) -> None:
    bench = Bench(planned)
    notes: dict[str, Note] = {}
    count = 0
    for comes, which in [(True, 0)] * first + steps:
        if comes:
            notes[str(count)] = bench.hold(str(count))
            count += 1
        elif notes:
            notes.pop(list(notes)[which % len(notes)]).abort(Reason.LEFT_WHILE_HELD)
    assert bench.listed() == list(notes)
    # Those on the first page leave before the second is read.
    page = bench.table.page(0)
    for held in page.held:
        notes.pop(held.id).abort(Reason.LEFT_WHILE_HELD)
    rest = [held.id for held in bench.table.page(page.next).held] if page.next else []
    assert rest == list(notes)[:PAGE]
    bench.close()


# Resolutions


async def answer_of(resolutions: Resolutions, id: str, wanted: HeldRoute | None) -> Any:
    answer = resolutions.resolve(ResolveHeld(id, wanted))
    return answer if isinstance(answer, HeldResolved | Refused) else await answer


@pytest.fixture(scope="module")
def identities() -> list[Identity]:
    made = [make_certificate([f"{number}.test"]) for number in range(3)]
    return [Identity(each.chain_pem, each.key_pem) for each in made]


async def test_contexts_of_the_latest_certificates_are_kept(
    bench: Bench, identities: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symphony.connection.resolution, "CONTEXTS_KEPT", 2)
    resolutions = Resolutions(bench.table, Planner().upstreams)
    contexts: list[RouteContext] = []
    for turn, number in enumerate((0, 1, 0, 2, 0, 1)):
        note = bench.hold(str(turn))
        wanted = HeldRoute((UPSTREAM,), identity=identities[number])
        assert await answer_of(resolutions, str(turn), wanted) == HeldResolved("forwarded")
        assert note.went is not None and note.went[1] is not None
        assert [slot.upstream for slot in note.went[0].balancer.slots] == [UPSTREAM]
        contexts.append(note.went[1])
    # Of 0 it was always known, as it was used in between; that of 1 was given up when 2 came.
    assert contexts[0] is contexts[2] is contexts[4]
    assert contexts[1] is not contexts[5] and len({id(context) for context in contexts}) == 4


async def test_one_that_leaves_while_its_certificate_is_looked_at(
    bench: Bench, identities: list[Identity]
) -> None:
    resolutions = Resolutions(bench.table, Planner().upstreams)
    note = bench.hold("a")
    waiting = asyncio.ensure_future(
        answer_of(resolutions, "a", HeldRoute((UPSTREAM,), identity=identities[0]))
    )
    await asyncio.sleep(0)
    note.abort(Reason.LEFT_WHILE_HELD)
    assert await waiting == HeldResolved("unknown")
    assert note.went is None


async def test_headers_that_could_not_be_set(bench: Bench) -> None:
    """Otherwise a client's own X-Forwarded-For would reach the upstream."""
    entry = msgspec.structs.replace(route("a.test", suspend_ms=5000), source_address_header="x_forwarded_for")
    found = (await Planner().build(snapshot(entry))).table.lookup(b"a.test")
    assert found is not None
    bench.planned = found
    note = bench.hold("a")
    resolutions = Resolutions(bench.table, Planner().upstreams)
    for settings_ in ({"terminate_tls": False}, {"http2": True}):
        answer = await answer_of(resolutions, "a", HeldRoute((UPSTREAM,), **settings_))
        assert isinstance(answer, Refused) and "x_forwarded_for" in answer.reason
    assert note.went is None
    assert await answer_of(resolutions, "a", HeldRoute((UPSTREAM,))) == HeldResolved("forwarded")
    assert note.went is not None and note.went[0].rewrites_http


async def test_a_certificate_means_to_decrypt(bench: Bench, identities: list[Identity]) -> None:
    plan = await Planner().build(snapshot(route("a.test", suspend_ms=5000, terminate=False)))
    passed = plan.table.lookup(b"a.test")
    assert passed is not None
    bench.planned = passed
    resolutions = Resolutions(bench.table, Planner().upstreams)
    notes = [bench.hold(str(number)) for number in range(2)]
    await answer_of(resolutions, "0", HeldRoute((UPSTREAM,)))
    await answer_of(resolutions, "1", HeldRoute((UPSTREAM,), identity=identities[0]))
    went = [note.went for note in notes]
    assert went[0] is not None and went[0][1] is None and went[0][0].terminate_tls is False
    assert went[1] is not None and went[1][1] is not None and went[1][0].terminate_tls is True


async def test_the_routes_own_context_is_used_as_it_is(bench: Bench, planned: PlannedRoute) -> None:
    resolutions = Resolutions(bench.table, Planner().upstreams)
    note = bench.hold("a")
    assert await answer_of(resolutions, "a", HeldRoute((UPSTREAM,))) == HeldResolved("forwarded")
    assert note.went is not None and note.went[1] is planned.contexts[0]
    other = bench.hold("b")
    await answer_of(resolutions, "b", HeldRoute((UPSTREAM,), http2=True))
    assert other.went is not None and other.went[1] not in (None, planned.contexts[0])
    passed = bench.hold("c")
    await answer_of(resolutions, "c", HeldRoute((UPSTREAM,), terminate_tls=False))
    assert passed.went is not None and passed.went[1] is None
    assert passed.went[0].terminate_tls is False and planned.terminate_tls is True
