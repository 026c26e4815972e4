"""What an operator says of upstreams: whom it is about, how long it holds, and where connections then go."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from symphony.config.model import TcpUpstream, UpstreamMode
from symphony.config.override import NoSuchUpstream, override, still_meant
from symphony.config.snapshot import Snapshot, UpstreamOverride
from symphony.routing.balancer import Balancer
from symphony.routing.pool import UpstreamPool
from tests.support.acceptor import route, snapshot

A, B, C = (TcpUpstream(host="127.0.0.1", port=port) for port in (1, 2, 3))
SERVED = snapshot(route("a.test", A, B), route("", B), route("*.b.test", A, C))


def said(snapshot: Snapshot) -> set[tuple[str, str, str]]:
    return {(entry.route, entry.upstream, entry.mode) for entry in snapshot.overrides}


def test_it_is_about_one_route() -> None:
    changed, routes = override(SERVED, "a.test", A.label, "drain")
    assert routes == ("a.test",)
    assert said(changed) == {("a.test", A.label, "drain")}
    changed, _ = override(changed, "a.test", A.label, "down")
    changed, _ = override(changed, "a.test", B.label, "drain")
    assert said(changed) == {("a.test", A.label, "down"), ("a.test", B.label, "drain")}
    changed, _ = override(changed, "a.test", A.label, "ready")
    changed, _ = override(changed, "a.test", A.label, "ready")
    assert said(changed) == {("a.test", B.label, "drain")}


def test_the_default_route_and_all_routes() -> None:
    for name in ("", "default"):
        assert override(SERVED, name, B.label, "drain")[1] == ("",)
    called_so = snapshot(route("default", A), route("", A))
    assert override(called_so, "default", A.label, "drain")[1] == ("default",)
    changed, routes = override(SERVED, "*", A.label, "drain")
    assert routes == ("a.test", "*.b.test")
    assert said(changed) == {("a.test", A.label, "drain"), ("*.b.test", A.label, "drain")}
    assert said(override(changed, "*", A.label, "ready")[0]) == set()


@pytest.mark.parametrize(
    ("name", "upstream", "expected"),
    [
        ("b.test", A.label, 'there is no route "b.test"'),
        ("a.test", C.label, f'route "a.test" has no upstream "{C.label}"; it has {A.label}, {B.label}'),
        ("*", "unix:/none", 'no route has the upstream "unix:/none"'),
    ],
)
def test_whoever_is_not_there(name: str, upstream: str, expected: str) -> None:
    with pytest.raises(NoSuchUpstream) as refused:
        override(SERVED, name, upstream, "drain")
    assert str(refused.value) == expected


def test_it_ends_with_what_it_is_about() -> None:
    overrides = override(SERVED, "*", A.label, "down")[0].overrides
    assert still_meant(overrides, SERVED) == overrides
    assert still_meant(overrides, snapshot(route("a.test", B), route("*.b.test", A))) == (
        UpstreamOverride("*.b.test", A.label, "down"),
    )


def balancer(pool: UpstreamPool, modes: dict[str, UpstreamMode]) -> Balancer:
    return pool.balancer([A, B, C], range(3), modes=modes)


def ports(balancer: Balancer) -> list[int]:
    """The ports of the upstreams that are tried one after another."""
    tried: list[int] = []
    slots = []
    while (slot := balancer.pick(slots)) is not None:
        slots.append(slot)
        assert isinstance(slot.upstream, TcpUpstream)
        tried.append(slot.upstream.port)
    return tried


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        ({A.label: "drain"}, [2, 3]),
        ({A.label: "down"}, [2, 3, 1]),
        ({A.label: "down", B.label: "drain"}, [3, 1]),
        ({A.label: "down", B.label: "down", C.label: "drain"}, [1, 2]),
        ({A.label: "drain", B.label: "drain", C.label: "drain"}, []),
    ],
)
def test_where_connections_go(modes: dict[str, UpstreamMode], expected: list[int]) -> None:
    assert ports(balancer(UpstreamPool(), modes)) == expected


def test_affinity_keeps_to_it() -> None:
    pool = UpstreamPool()
    entries = [
        TcpUpstream(host="127.0.0.1", port=1, ip_affinity=True),
        TcpUpstream(host="127.0.0.1", port=2),
        TcpUpstream(host="127.0.0.1", port=3),
    ]
    clients = [f"192.0.2.{number}" for number in range(40)]

    def owners(modes: dict[str, UpstreamMode]) -> dict[str, str]:
        chosen = pool.balancer(entries, modes=modes)
        found = {client: chosen.pick((), client) for client in clients}
        return {client: slot.upstream.label for client, slot in found.items() if slot is not None}

    before = owners({})
    drained = owners({A.label: "drain"})
    assert set(drained.values()) == {B.label, C.label}
    assert all(drained[client] == label for client, label in before.items() if label != A.label)
    assert set(owners({B.label: "down", C.label: "drain"}).values()) == {A.label}
    assert set(owners({A.label: "down", B.label: "drain", C.label: "drain"}).values()) == {A.label}


def test_routes_of_one_name_on_different_listeners() -> None:
    here = replace(route("a.test", A, B), listeners=("one:1",))
    there = replace(route("a.test", A, C), listeners=("two:2", "three:3"))
    both = snapshot(here, there)
    assert override(both, "a.test", A.label, "drain")[1] == ("a.test@one:1", "a.test@two:2,three:3")
    assert override(both, "a.test", C.label, "down")[1] == ("a.test@two:2,three:3",)
    changed, routes = override(both, "a.test@one:1", A.label, "drain")
    assert routes == ("a.test@one:1",)
    assert still_meant(changed.overrides, both) == changed.overrides
    assert still_meant(changed.overrides, snapshot(there)) == ()
    with pytest.raises(NoSuchUpstream, match="it has "):
        override(both, "a.test@one:1", C.label, "drain")
