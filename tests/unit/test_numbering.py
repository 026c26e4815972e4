"""Which number an upstream or a route has in shared memory, from one snapshot to the next."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from symphony.config.model import TcpUpstream
from symphony.config.numbering import number_snapshot, upstream_numbers
from symphony.config.snapshot import Snapshot
from tests.support.acceptor import route, snapshot

CAPACITY = 12


def upstream(number: int, weight: int = 1) -> TcpUpstream:
    return TcpUpstream(host="127.0.0.1", port=number, weight=weight)


def route_numbers(snapshot: Snapshot) -> dict[str, int]:
    return {entry.sni: entry.number for entry in snapshot.routes}


def test_every_upstream_and_route_has_its_number() -> None:
    numbered = number_snapshot(
        snapshot(route("a", upstream(1), upstream(2)), route("b", upstream(2), upstream(3, weight=2))), None
    )
    assert upstream_numbers(numbered) == {
        "tcp://127.0.0.1:1": 0,
        "tcp://127.0.0.1:2": 1,
        "tcp://127.0.0.1:3": 2,
    }
    assert [entry.upstream_numbers for entry in numbered.routes] == [(0, 1), (1, 2)]
    assert route_numbers(numbered) == {"a": 0, "b": 1}


def test_the_same_configuration_has_the_same_numbers() -> None:
    first = number_snapshot(snapshot(route("a", upstream(1)), route("b", upstream(2))), None)
    assert number_snapshot(first, first) == first
    again = number_snapshot(snapshot(route("b", upstream(2)), route("a", upstream(1, weight=9))), first)
    assert (upstream_numbers(again), route_numbers(again)) == (upstream_numbers(first), route_numbers(first))


def test_numbers_survive_the_disk() -> None:
    first = number_snapshot(snapshot(route("a", upstream(1)), route("b", upstream(2))), None)
    second = number_snapshot(snapshot(route("b", upstream(2))), first)
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(second), type=Snapshot)
    assert stored == second and stored.upstream_numbering.freed == (0,)


def test_what_finds_no_number_gets_one_when_there_is_one() -> None:
    def numbered(names: str, previous: Snapshot | None) -> Snapshot:
        routes = [route(name, upstream(ord(name))) for name in names]
        return number_snapshot(snapshot(*routes), previous, 2, 2)

    full = numbered("abc", None)
    assert [entry.upstream_numbers for entry in full.routes] == [(0,), (1,), (-1,)]
    assert route_numbers(full) == {"a": 0, "b": 1, "c": -1}
    # What became free with this very snapshot is not given on with it: those who count there do not know yet.
    fewer = numbered("bc", full)
    assert route_numbers(fewer) == {"b": 1, "c": -1}
    assert route_numbers(numbered("bc", fewer)) == {"b": 1, "c": 0}


class Reloads(RuleBasedStateMachine):
    """Upstreams come and go; a model knows which numbers they have and which have been free for how long."""

    def __init__(self) -> None:
        super().__init__()
        self.current: Snapshot | None = None
        self.ever: dict[int, str] = {}
        self.freed: list[int] = []

    @rule(ports=st.lists(st.integers(1, 25), max_size=16))
    def reload(self, ports: list[int]) -> None:
        before = upstream_numbers(self.current) if self.current is not None else {}
        routes = [route(str(at), *map(upstream, ports[at : at + 3])) for at in range(0, len(ports), 3)]
        self.current = number_snapshot(snapshot(*routes), self.current, CAPACITY)
        after = upstream_numbers(self.current)
        for label, number in after.items():
            known = before.get(label, -1)
            if known >= 0:
                assert number == known, f"{label} has lost its number"
            elif number >= 0:
                assert number not in before.values(), "given on at once"
                if number in self.ever:
                    assert self.freed[0] == number, "not the one that was free for the longest time"
                    assert len(self.ever) == CAPACITY, "given on although there are unused ones"
                    self.freed.pop(0)
                self.ever[number] = label
            else:
                assert len(after) > CAPACITY - len(set(before) - set(after))
        self.freed += sorted(n for label, n in before.items() if n >= 0 and label not in after)

    @invariant()
    def no_number_is_given_twice(self) -> None:
        if self.current is not None:
            numbers = [number for number in upstream_numbers(self.current).values() if number >= 0]
            assert len(set(numbers)) == len(numbers) and all(number < CAPACITY for number in numbers)
            assert list(self.current.upstream_numbering.freed) == self.freed


TestReloads = Reloads.TestCase
TestReloads.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), unique=True, max_size=40), st.lists(st.integers(1, 60), unique=True))
def test_routes_are_numbered_as_upstreams_are(first: list[int], second: list[int]) -> None:
    one = number_snapshot(snapshot(*(route(str(name)) for name in first)), None)
    two = number_snapshot(snapshot(*(route(str(name)) for name in second)), one)
    numbers = route_numbers(two)
    assert len(set(numbers.values())) == len(numbers)
    for name in set(map(str, first)) & set(map(str, second)):
        assert numbers[name] == route_numbers(one)[name]
