"""What a configuration says about the choice among upstreams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from symphony.config.resolve import Loaded, load
from symphony.config.snapshot import RouteEntry

Load = Callable[..., Loaded]


@pytest.fixture
def read(tmp_path: Path) -> Load:
    """Load a file with one listener, and a route to an upstream with these keys."""

    def read(*upstreams: str, keys: str = "") -> Loaded:
        rows = ", ".join(f"{{ {row} }}" for row in upstreams)
        file = tmp_path / "symphony.toml"
        file.write_text(
            "[[listeners]]\nport = 8443\n[[routes]]\nsni = 'a'\nterminate_tls = false\n"
            f"upstreams = [{rows}]\n{keys}\n"
        )
        return load(str(file))

    return read


TCP = "kind = 'tcp', host = '127.0.0.1', port = 80"
UDS = "kind = 'uds', path = '/run/a.sock'"


def only_route(loaded: Loaded) -> RouteEntry:
    (route,) = loaded.require()[1].routes
    return route


def problems(loaded: Loaded) -> dict[str, str]:
    return {problem.place: problem.text for problem in loaded.problems}


def test_defaults(read: Load) -> None:
    route = only_route(read(TCP, UDS))
    assert route.balance == "least_connections"
    assert [upstream.weight for upstream in route.upstreams] == [1, 1]
    assert (route.number, route.upstream_numbers) == (0, (0, 1))


@pytest.mark.parametrize("balance", ["least_connections", "round_robin", "random", "ip_hash"])
def test_balance_and_weight(read: Load, balance: str) -> None:
    route = only_route(read(TCP + ", weight = 7", UDS + ", weight = 1000", keys=f"balance = '{balance}'"))
    assert route.balance == balance
    assert [upstream.weight for upstream in route.upstreams] == [7, 1000]


@pytest.mark.parametrize("weight", ["0", "-1", "1001", "1.5", "'1'", "true"])
def test_weight_out_of_range(read: Load, weight: str) -> None:
    found = problems(read(f"{UDS}, weight = {weight}"))
    assert list(found) == ["routes[0].upstreams[0].weight"]
    assert found["routes[0].upstreams[0].weight"].startswith("expected an integer from 1 to 1000, found ")


def test_unknown_strategy(read: Load) -> None:
    assert problems(read(TCP, keys="balance = 'round-robin'")) == {
        "routes[0].balance": 'expected "ip_hash", "least_connections", "random" or "round_robin", found '
        '"round-robin"; did you mean "round_robin"?'
    }
