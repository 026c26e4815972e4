"""The keys that say who a client is: what a good file becomes, and what is refused, with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from symphony.config.loaded import Loaded
from symphony.config.problem import Severity
from symphony.config.resolve import load
from symphony.config.snapshot import RouteEntry
from symphony.tls.certificate_maker import make_certificate

CERT = 'default_cert = { cert_chain_file = "a.pem", private_key_file = "a.key" }'
UPSTREAM = 'upstreams = [{ kind = "tcp", host = "127.0.0.1", port = 8080 }]'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("identity")
    made = make_certificate(["a.example"])
    (path / "a.pem").write_bytes(made.chain_pem)
    (path / "a.key").write_bytes(made.key_pem)
    (path / "a.key").chmod(0o600)
    return path


def read(folder: Path, listener: str = "", route: str = "") -> Loaded:
    text = f'[[listeners]]\nport = 8443\n{CERT}\n{listener}\n[[routes]]\nsni = "a.example"\n{UPSTREAM}\n{route}\n'
    (folder / "symphony.toml").write_text(text)
    return load(str(folder / "symphony.toml"))


def only_route(loaded: Loaded) -> RouteEntry:
    assert loaded.problems == ()
    assert loaded.snapshot is not None
    (entry,) = loaded.snapshot.routes
    return entry


def problems(loaded: Loaded) -> list[tuple[str, str]]:
    return [(problem.place, problem.text) for problem in loaded.problems]


def test_nothing_is_told_unless_asked_for(folder: Path) -> None:
    entry = only_route(read(folder))
    assert (entry.source_address_header, entry.forward_fingerprint) == ("none", ())


@pytest.mark.parametrize("header", ["none", "proxy_protocol", "proxy_protocol_v2"])
@pytest.mark.parametrize("more", ["", "terminate_tls = false"])
def test_proxy_headers_go_with_every_kind_of_route(folder: Path, header: str, more: str) -> None:
    entry = only_route(read(folder, route=f'source_address_header = "{header}"\n{more}'))
    assert entry.source_address_header == header


def test_fingerprints(folder: Path) -> None:
    for header in ("proxy_protocol_v2", "x_forwarded_for"):
        route = f'source_address_header = "{header}"\nforward_fingerprint = ["ja4", "ja3"]'
        assert only_route(read(folder, route=route)).forward_fingerprint == ("ja4", "ja3")


@pytest.mark.parametrize("header", ["none", "proxy_protocol"])
def test_fingerprints_without_a_header_that_carries_them(folder: Path, header: str) -> None:
    route = f'source_address_header = "{header}"\nforward_fingerprint = ["ja3"]'
    ((place, text),) = problems(read(folder, route=route))
    assert place == "routes[0].forward_fingerprint"
    assert text.startswith(f'means nothing with source_address_header = "{header}"')
    assert 'expected source_address_header = "proxy_protocol_v2" or "x_forwarded_for"' in text


@pytest.mark.parametrize("setting", ["http2 = true", "terminate_tls = false"])
def test_fields_in_requests_need_requests_that_can_be_read(folder: Path, setting: str) -> None:
    route = f'source_address_header = "x_forwarded_for"\n{setting}'
    ((place, text),) = problems(read(folder, route=route))
    assert place == "routes[0].source_address_header"
    assert text.startswith(f'"x_forwarded_for" cannot be used with {setting}')


def test_fields_in_requests_of_a_route_that_holds_what_it_passes_through(folder: Path) -> None:
    route = 'source_address_header = "x_forwarded_for"\nterminate_tls = false\nsuspended = true'
    ((place, text),) = problems(read(folder, route=route))
    assert place == "routes[0].source_address_header"
    assert "unless a held connection is resolved otherwise (it may be given this header then)" in text
    assert text.endswith("expected a PROXY header, or not terminate_tls = false")


def test_fields_in_requests(folder: Path) -> None:
    entry = only_route(read(folder, route='source_address_header = "x_forwarded_for"'))
    assert (entry.source_address_header, entry.forward_fingerprint) == ("x_forwarded_for", ())


def test_a_fingerprint_named_twice(folder: Path) -> None:
    route = 'source_address_header = "proxy_protocol_v2"\nforward_fingerprint = ["ja3", "ja3"]'
    assert problems(read(folder, route=route)) == [
        ("routes[0].forward_fingerprint", "names a fingerprint twice: expected each once")
    ]


@pytest.mark.parametrize(
    ("route", "place"),
    [
        ('source_address_header = "proxy"', "routes[0].source_address_header"),
        ("source_address_header = true", "routes[0].source_address_header"),
        ('forward_fingerprint = ["ja5"]', "routes[0].forward_fingerprint[0]"),
        ('forward_fingerprint = "ja3"', "routes[0].forward_fingerprint"),
    ],
)
def test_values_that_are_none_of_the_known(folder: Path, route: str, place: str) -> None:
    ((found, text),) = problems(read(folder, route=route))
    assert found == place
    assert text.startswith("expected ")


# Listeners behind load balancers


def trusted(loaded: Loaded) -> tuple[str, ...]:
    assert loaded.snapshot is not None
    (entry,) = loaded.snapshot.listeners
    return entry.trusted_proxies


def test_nobody_is_trusted_unless_asked_for(folder: Path) -> None:
    loaded = read(folder)
    assert (loaded.problems, trusted(loaded)) == ((), ())
    loaded = read(folder, "accept_proxy_protocol = false")
    assert (loaded.problems, trusted(loaded)) == ((), ())


def test_trusted_proxies(folder: Path) -> None:
    networks = ("10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::1")
    loaded = read(folder, f"accept_proxy_protocol = true\ntrusted_proxies = {list(networks)!r}")
    assert (loaded.problems, trusted(loaded)) == ((), networks)


@pytest.mark.parametrize("listener", ["", "trusted_proxies = []"])
def test_taking_headers_from_nobody(folder: Path, listener: str) -> None:
    """Refused, since the only other reading of it is to take them from everybody."""
    loaded = read(folder, f"accept_proxy_protocol = true\n{listener}")
    ((place, text),) = problems(loaded)
    assert place == "listeners[0].trusted_proxies"
    assert text.startswith("is missing")
    assert loaded.snapshot is None


def test_trusting_somebody_for_nothing(folder: Path) -> None:
    ((place, text),) = problems(read(folder, 'trusted_proxies = ["10.0.0.0/8"]'))
    assert place == "listeners[0].trusted_proxies"
    assert text.startswith("means nothing without accept_proxy_protocol")


@pytest.mark.parametrize("network", ["10.0.0.1/8", "10.0.0.0/33", "all", "", "lb.example.com", "10.0.0.0/8 "])
def test_networks_that_are_none(folder: Path, network: str) -> None:
    listener = f"accept_proxy_protocol = true\ntrusted_proxies = ['127.0.0.1', '{network}']"
    ((place, text),) = problems(read(folder, listener))
    assert place == "listeners[0].trusted_proxies[1]"
    assert "expected" in text


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_trusting_everybody_is_warned_of(folder: Path, network: str) -> None:
    loaded = read(folder, f"accept_proxy_protocol = true\ntrusted_proxies = ['10.0.0.0/8', '{network}']")
    (problem,) = loaded.problems
    assert problem.severity is Severity.WARNING
    assert problem.place == "listeners[0].trusted_proxies[1]"
    assert problem.text.startswith("trusts every client")
    assert trusted(loaded) == ("10.0.0.0/8", network)
