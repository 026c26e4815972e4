"""What a configuration says about the choice among upstreams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from symphony.config.loaded import Loaded
from symphony.config.model import HealthCheck
from symphony.config.resolve import load
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
UDS_H2 = UDS + ", protocol = 'h2'"


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


def test_health_keys(read: Load) -> None:
    checked = "health_check = { interval_ms = 250, timeout_ms = 100, rise = 1, fall = 5, tls = true }"
    route = only_route(read(TCP, UDS + f", max_fails = 0, fail_timeout_ms = 100, {checked}"))
    plain, other = route.upstreams
    assert (plain.max_fails, plain.fail_timeout_ms, plain.health_check) == (3, 10_000, None)
    assert (other.max_fails, other.fail_timeout_ms) == (0, 100)
    assert other.health_check == HealthCheck(interval_ms=250, timeout_ms=100, rise=1, fall=5, tls=True)
    (route,) = read(UDS + ", health_check = {}").require()[1].routes
    assert route.upstreams[0].health_check == HealthCheck()


@pytest.mark.parametrize(
    ("key", "place", "text"),
    [
        ("max_fails = -1", "max_fails", "expected an integer from 0 to 1000, found the number -1"),
        ("fail_timeout_ms = 99", "fail_timeout_ms", "expected an integer from 100 to 86400000"),
        ("health_check = true", "health_check", "expected a table, found the boolean true"),
        ("health_check = { interval_ms = 1 }", "health_check.interval_ms", "expected an integer from 100 to"),
        ("health_check = { rise = 0 }", "health_check.rise", "expected an integer from 1 to 100"),
        ("health_check = { fall = 101 }", "health_check.fall", "expected an integer from 1 to 100"),
        ("health_check = { interval = 1 }", "health_check.interval", "unknown key; did you mean"),
    ],
)
def test_health_keys_that_are_wrong(read: Load, key: str, place: str, text: str) -> None:
    found = problems(read(f"{UDS}, {key}"))
    assert list(found) == [f"routes[0].upstreams[0].{place}"]
    assert found[f"routes[0].upstreams[0].{place}"].startswith(text)


def test_one_upstream_is_checked_in_one_way(read: Load) -> None:
    more = (
        "[[routes]]\nsni = 'b'\nterminate_tls = false\n"
        f"upstreams = [{{ {UDS}, weight = 2, health_check = {{ fall = 1 }} }}, {{ {TCP}, health_check = {{}} }}]"
    )
    assert not problems(read(UDS + ", health_check = { fall = 1 }", TCP, keys=more))
    loaded = read(UDS + ", health_check = {}", keys=more)
    place = "routes[1].upstreams[0].health_check"
    assert list(problems(loaded)) == [place]
    assert problems(loaded)[place].startswith(
        'is another one than routes[0].upstreams[0].health_check, for the same upstream "unix:/run/a.sock"'
    )
    assert loaded.broken == (("b", ()),)


def test_affinity_keys(read: Load) -> None:
    first, second = only_route(read(TCP + ", ip_affinity = true, ip_affinity_ttl_ms = 1000", UDS)).upstreams
    assert (first.ip_affinity, first.ip_affinity_ttl_ms) == (True, 1000)
    assert (second.ip_affinity, second.ip_affinity_ttl_ms) == (False, 300_000)
    assert not problems(read(TCP + ", ip_affinity = true", UDS + ", ip_affinity = true"))
    assert not problems(read(TCP + ", ip_affinity = true", keys="balance = 'ip_hash'"))
    assert list(problems(read(TCP + ", ip_affinity_ttl_ms = 999"))) == [
        "routes[0].upstreams[0].ip_affinity_ttl_ms"
    ]


def test_affinity_that_nothing_comes_of(read: Load) -> None:
    found = problems(read(TCP, UDS + ", ip_affinity = true"))
    assert found == {
        "routes[0].upstreams[1].ip_affinity": "means nothing here: expected it in the first entry, which decides for "
        "the whole list"
    }


@pytest.mark.parametrize("balance", ["round_robin", "random"])
def test_affinity_and_a_strategy_that_moves_clients(read: Load, balance: str) -> None:
    found = problems(read(TCP + ", ip_affinity = true", UDS, keys=f"balance = '{balance}'"))
    assert list(found) == ["routes[0].balance"]
    assert found["routes[0].balance"].startswith(f'"{balance}" contradicts ip_affinity')


def test_unknown_strategy(read: Load) -> None:
    assert problems(read(TCP, keys="balance = 'round-robin'")) == {
        "routes[0].balance": 'expected "ip_hash", "least_connections", "random" or "round_robin", found '
        '"round-robin"; did you mean "round_robin"?'
    }


@pytest.mark.parametrize(
    ("upstreams", "keys", "found"),
    [
        ((UDS, UDS_H2), "http2 = true", {}),
        ((UDS_H2, TCP), "http2 = true", {}),
        ((UDS, UDS_H2), "", {"routes[0].upstreams[1].protocol": "means nothing without http2 = true"}),
        (
            (UDS_H2, UDS_H2.replace("a.sock", "b.sock")),
            "http2 = true",
            {"routes[0].upstreams[0].protocol": "leaves no upstream for clients without HTTP/2"},
        ),
        ((UDS, UDS + ", protocol = 'http/1.1'"), "", {}),
        ((UDS, UDS + ", protocol = 'h3'"), "", {"routes[0].upstreams[1].protocol": "expected"}),
    ],
)
def test_upstreams_for_http2_only(
    read: Load, upstreams: tuple[str, ...], keys: str, found: dict[str, str]
) -> None:
    # Suspended, since what is passed through has no http2 otherwise.
    told = problems(read(*upstreams, keys=f"suspended = true\n{keys}"))
    assert list(told) == list(found)
    assert all(told[place].startswith(text) for place, text in found.items())
