"""Which route a server name leads to."""

from __future__ import annotations

import pytest

from symphony.routing.table import RouteTable

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
