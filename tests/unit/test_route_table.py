"""Which route a server name leads to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.routing.table import ListenerTable, RouteTable

NAMES = ["", "test", "b.test", "a.b.test", "*.test", "*.b.test", "*.a.b.test", "*.c.b.test"]
TABLE = RouteTable(
    [
        ("example.com", "exact"),
        ("*.example.com", "wildcard"),
        ("admin.example.com", "admin"),
        ("*.deep.example.com", "deep"),
        ("", "default"),
    ]
)


@pytest.mark.parametrize(
    ("name", "route"),
    [
        (b"example.com", "exact"),
        (b"EXAMPLE.com", "exact"),
        (b"example.com.", "exact"),
        (b"Example.COM.", "exact"),
        (b"shop.example.com", "wildcard"),
        (b"SHOP.example.com.", "wildcard"),
        (b"deep.example.com", "wildcard"),
        (b"admin.example.com", "admin"),
        (b"a.deep.example.com", "deep"),
        (b"a.b.example.com", "default"),  # a wildcard stands for one label, not two
        (b".example.com", "default"),  # nor for none
        (b"example.com..", "default"),
        (b"example.org", "default"),
        (b"com", "default"),
        (b".", "default"),
        (b"", "default"),
        (None, "default"),
    ],
)
def test_lookup(name: bytes | None, route: str) -> None:
    assert TABLE.lookup(name) == route


def test_without_default() -> None:
    table = RouteTable([("a.example", 1)])
    assert table.lookup(b"b.example") is None
    assert table.lookup(None) is None
    assert table.lookup(b"a.example") == 1
    assert len(table) == 1
    assert len(TABLE) == 5
    assert len(RouteTable[int]([])) == 0


def test_a_route_that_is_false_is_still_a_route() -> None:
    table = RouteTable([("a.example", 0), ("*.example", False), ("", 7)])
    assert table.lookup(b"A.example") == 0
    assert table.lookup(b"b.example") is False


def test_two_routes_for_one_name() -> None:
    with pytest.raises(ValueError, match=r"two routes for 'a\.example'"):
        RouteTable([("a.example", 1), ("a.example", 2)])


def test_a_listener_with_routes_of_its_own_has_the_shared_ones_too() -> None:
    own = RouteTable([("own.example", "own"), ("x.shared.example", "exact"), ("*.example.com", "wild")])
    shared = RouteTable([("a.example.com", "a"), ("*.shared.example", "shared"), ("", "default")])
    table = ListenerTable(shared, own)
    for name, route in (
        (b"OWN.example.", "own"),
        (b"x.shared.example", "exact"),  # an exact name goes before a wildcard, whoever has it
        (b"y.shared.example", "shared"),
        (b"A.example.com", "a"),
        (b"b.example.com", "wild"),
        (b"b.example.org", "default"),
        (b".example.com", "default"),
        (b"", "default"),
        (None, "default"),
    ):
        assert table.lookup(name) == route, name
    assert ListenerTable(RouteTable([("", 1)]), RouteTable([("a", 0)])).lookup(b"A") == 0
    assert ListenerTable(RouteTable([("a", 1)]), RouteTable([("", 0)])).lookup(None) == 0
    assert ListenerTable(RouteTable([("a", 1)]), RouteTable([("b", 0)])).lookup(b"c") is None


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), unique_by=lambda entry: entry[0]),
    st.sampled_from([*NAMES, "c.b.test", "d.c.b.test", "A.B.TEST."]),
)
def test_two_tables_are_as_one_with_the_routes_of_both(entries: list[tuple[str, bool]], name: str) -> None:
    asked = None if name == "" else name.removeprefix("*.").encode()
    together = RouteTable((name, name) for name, _ in entries)
    table = ListenerTable(
        RouteTable((name, name) for name, own in entries if not own),
        RouteTable((name, name) for name, own in entries if own),
    )
    assert table.lookup(asked) == together.lookup(asked)
