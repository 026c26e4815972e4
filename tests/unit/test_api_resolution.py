"""What a program says becomes of a held connection, in all the forms in which it may say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from symphony import Certificate, ConfigError, MutualTls, ResolveRoute, Route, TcpUpstream, UdsUpstream
from symphony.api.resolution import held_route
from symphony.config.snapshot import ClientAuthority, Identity
from symphony.messages.held import HeldRoute
from symphony.tls.certificate_maker import make_authority, make_certificate

MADE = make_certificate(["a.example"])
CA = make_authority("clients").cert_pem
IDENTITY = Identity(MADE.chain_pem, MADE.key_pem)
CHAIN, KEY = MADE.chain_pem, MADE.key_pem


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a.pem").write_bytes(CHAIN)
    (tmp_path / "a.key").write_bytes(KEY)
    (tmp_path / "a.key").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "route",
    [
        ResolveRoute(cert_chain=CHAIN, private_key=KEY.decode()),
        ResolveRoute(cert=Certificate(cert_chain=CHAIN.decode(), private_key=KEY.decode())),
        ResolveRoute(cert=Certificate(cert_chain_file="a.pem", private_key_file="a.key")),
        Route(sni="any", cert=Certificate(cert_chain=CHAIN, private_key=KEY)),  # type: ignore[arg-type]
        {"cert_chain": CHAIN.decode(), "private_key": KEY},
        {"cert": {"cert_chain_file": Path("a.pem"), "private_key": KEY}},
        {"cert": Certificate(cert_chain_file="a.pem", private_key_file="a.key"), "http2": None},
    ],
)
def test_a_certificate(folder: Path, route: Any) -> None:
    assert held_route(route) == HeldRoute(identity=IDENTITY)
    assert isinstance(route, dict) or "PRIVATE KEY" not in repr(route)


def test_everything_that_can_be_said(folder: Path) -> None:
    uds, tcp = UdsUpstream(path="up.sock"), TcpUpstream(host="LocalHost", port=80)
    wanted = HeldRoute(
        (UdsUpstream(path=str(folder / "up.sock")), TcpUpstream(host="localhost", port=80)),
        terminate_tls=True,
        identity=None,
        http2=False,
        source_address_header="proxy_protocol_v2",
        forward_fingerprint=("ja4",),
        authority=ClientAuthority(CA, False),
    )
    mtls = MutualTls(client_ca_cert=CA.decode(), require_client_cert=False)
    said: dict[str, Any] = {
        "upstreams": (uds, tcp),
        "terminate_tls": True,
        "http2": False,
        "source_address_header": "proxy_protocol_v2",
        "forward_fingerprint": ("ja4",),
        "mtls": mtls,
    }
    assert held_route(ResolveRoute(**said)) == wanted
    assert held_route(said) == wanted
    assert held_route({}) == held_route(ResolveRoute()) == HeldRoute()
    assert held_route({"upstream": tcp}).upstreams == wanted.upstreams[1:]
    # A route says what it sets; its defaults leave the suspended route's own.
    assert held_route(Route(sni="", upstreams=(tcp,))) == HeldRoute(wanted.upstreams[1:])


@pytest.mark.parametrize(
    ("route", "places"),
    [
        ({"nonsense": 1, "http2": "x"}, ["http2", "nonsense"]),
        (
            {"upstreams": [{"kind": "tcp", "host": "", "port": 1}, {"kind": "uds", "path": ""}]},
            ["upstreams[0].host", "upstreams[1].path"],
        ),
        ({"upstreams": [{"kind": "tcp", "host": "a", "port": 0}]}, ["upstreams[0].port"]),
        ({"cert_chain": CHAIN}, ["cert"]),
        ({"cert": {"cert_chain_file": "gone.pem", "private_key_file": "a.key"}}, ["cert.cert_chain_file"]),
        ({"cert_chain": "x", "private_key": KEY}, ["cert.cert_chain"]),
        ({"mtls": {}}, ["mtls"]),
        ({"forward_fingerprint": ["ja5"]}, ["forward_fingerprint[0]"]),
        ({"source_address_header": "proxyProtocol"}, ["source_address_header"]),
    ],
)
def test_what_cannot_be_used_is_told_with_its_places(folder: Path, route: Any, places: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        held_route(route)
    assert sorted(problem.place for problem in refused.value.problems) == places
    assert "PRIVATE KEY" not in str(refused.value)


def test_what_is_no_route() -> None:
    with pytest.raises(TypeError, match="found list"):
        held_route([])  # type: ignore[arg-type]
