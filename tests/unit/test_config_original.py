"""Files written for the Node.js proxy of the same name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from symphony.config.loaded import Loaded
from symphony.config.model import TcpUpstream, UdsUpstream
from symphony.config.original import is_original, translate
from symphony.config.problem import Severity
from symphony.config.resolve import load
from symphony.tls.certificate_maker import make_certificate

MADE = make_certificate(["a.example"])
CERT = {"certChain": MADE.chain_pem.decode(), "privateKeyFile": "key.pem"}


def proxy(**changes: Any) -> dict[str, Any]:
    return {
        "workerThreads": 3,
        "readBufferSize": 65536,
        "listeners": [
            {
                "port": 18443,
                "defaultCert": CERT,
                "maxConnections": 100,
                "idleTimeoutMs": 5000,
                "protection": {
                    "rateLimit": {"connectionsPerSecond": 50, "burst": 100},
                    "sustained": {"connectionsPerMinute": 300},
                    "penaltyBox": {"durationMs": 1000},
                    "maxConcurrentPerIp": 200,
                    "allowlist": ["10.0.0.0/8"],
                    "ja3Blocklist": ["e7d705a3286e19ea42f587b344ee6865"],
                    "tlsHandshakeTimeoutMs": 5000,
                    "requireSni": True,
                },
            },
            {"port": 18080, "mode": "http", "protection": {"requireSni": True}, "mtls": None},
        ],
        "routes": [
            {
                "sni": "a.example",
                "terminateTls": True,
                "upstreams": [
                    {"kind": "uds", "path": "/run/a-0.sock", "ipAffinity": True, "pid": 1, "tid": 1},
                    {"kind": "uds", "path": "/run/a-1.sock"},
                ],
                "maxConnectionsPerSecond": 500,
                "burst": 1000,
                "mtls": None,
            },
            {
                "sni": "*.b.example",
                "terminateTls": False,
                "upstreams": [{"kind": "tcp", "host": "127.0.0.1", "port": 443}],
                "sourceAddressHeader": "proxyProtocolV2",
                "forwardFingerprint": "ja4",
            },
            {
                "sni": "held.example",
                "terminateTls": True,
                "suspended": True,
                "suspendTimeoutMs": 5000,
                "upstreams": [],
                "forwardFingerprint": "none",
            },
        ],
        **changes,
    }


def loaded(tmp_path: Path, *proxies: Any, **more: Any) -> Loaded:
    key = tmp_path / "key.pem"
    key.write_bytes(MADE.key_pem)
    key.chmod(0o600)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"version": 1, "proxies": list(proxies), **more}))
    return load(str(path))


def test_a_whole_file_as_it_is(tmp_path: Path) -> None:
    config, snapshot = loaded(tmp_path, proxy()).require()
    assert (config.workers, config.read_buffer_size) == (3, 65536)
    tls, http = config.listeners
    assert (tls.host, tls.port, tls.max_connections, tls.idle_timeout_ms) == ("0.0.0.0", 18443, 100, 5000)
    assert tls.protection.require_sni and tls.protection.tls_handshake_timeout_ms == 5000
    assert (http.mode, http.protection.require_sni) == ("http", False)
    first, second, third = config.routes
    assert [type(one) for one in (*first.upstreams, *second.upstreams)] == [
        UdsUpstream,
        UdsUpstream,
        TcpUpstream,
    ]
    # What is not said is as it is there: Unix sockets are told the client, ports are not.
    assert first.source_address_header == "proxy_protocol"
    assert (second.source_address_header, tuple(second.forward_fingerprint)) == (
        "proxy_protocol_v2",
        ("ja4",),
    )
    assert third.suspended and third.suspend_timeout_ms == 5000 and third.source_address_header == "none"
    assert len(snapshot.routes) == 3


def test_the_document_is_told_from_ours() -> None:
    assert is_original({"proxies": []})
    assert not is_original({"proxies": [], "listeners": []})
    assert not is_original({"listeners": []})


def test_several_proxies_with_the_same_routes(tmp_path: Path) -> None:
    other = proxy(listeners=[{"port": 18444, "defaultCert": CERT}], workerThreads=5)
    config, _ = loaded(tmp_path, proxy(), other).require()
    assert config.workers == 5
    assert [listener.port for listener in config.listeners] == [18443, 18080, 18444]
    assert len(config.routes) == 3


def test_several_proxies_with_routes_of_their_own(tmp_path: Path) -> None:
    tcp = [{"kind": "tcp", "host": "127.0.0.1", "port": 81}]
    routes = [{"sni": sni, "terminateTls": True, "upstreams": tcp} for sni in ("a.example", "")]
    listeners = [{"host": "LocalHost", "port": port, "defaultCert": CERT} for port in (0, 0, 18444)]
    _, snapshot = loaded(tmp_path, proxy(), proxy(routes=routes, listeners=listeners)).require()
    first = ("0.0.0.0:18443", "0.0.0.0:18080")
    second = ("localhost:0", "localhost:0#2", "localhost:18444")
    assert [(entry.sni, entry.listeners) for entry in snapshot.routes] == [
        ("a.example", first),
        ("*.b.example", first),
        ("held.example", first),
        ("a.example", second),
        ("", second),
    ]
    # Certificates of the one proxy's listeners are none of the other's.
    assert [[policy >= 0 for policy in entry.policies] for entry in snapshot.routes] == [
        [True, False, False, False, False],
        [],
        [True, False, False, False, False],
        [False, False, True, True, True],
        [False, False, True, True, True],
    ]


def test_a_proxy_without_listeners_serves_no_routes(tmp_path: Path) -> None:
    found = loaded(tmp_path, proxy(), proxy(listeners=[]))
    assert found.snapshot is None
    assert "proxies[1].listeners" in {problem.place for problem in found.problems}


@pytest.mark.parametrize("wrong", [5, {"port": "x"}, {"host": "a b", "port": 1}, {"host": 5, "port": 1}])
def test_a_listener_that_is_none_is_the_only_thing_that_is_told(tmp_path: Path, wrong: Any) -> None:
    found = loaded(tmp_path, proxy(), proxy(listeners=[wrong], routes=proxy()["routes"][:1]))
    assert found.snapshot is None
    errors = {problem.place for problem in found.problems if problem.severity is Severity.ERROR}
    assert errors and all(place.startswith("listeners[2]") for place in errors)


def test_a_later_file_with_http2_upstreams_and_small_buffers(tmp_path: Path) -> None:
    upstreams = [{"kind": "uds", "path": "/run/a"}, {"kind": "uds", "path": "/run/b", "protocol": "h2"}]
    route = {"sni": "", "terminateTls": True, "http2": True, "upstreams": upstreams, "protocol": "opaque"}
    config, _ = loaded(tmp_path, proxy(readBufferSize=8192, routes=[route])).require()
    assert config.read_buffer_size == 16384
    assert [upstream.protocol for upstream in config.routes[0].upstreams] == ["http/1.1", "h2"]


def test_what_has_no_counterpart_is_told(tmp_path: Path) -> None:
    found = loaded(tmp_path, proxy(clientReadBufferSize=1000))
    assert found.config is not None
    assert "proxies[0].clientReadBufferSize" in {
        problem.place for problem in found.problems if problem.severity is Severity.WARNING
    }


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"proxies": 5}, "proxies"),
        ({"proxies": [5]}, "proxies"),
        ({"proxies": [{"listeners": 5, "routes": []}]}, "proxies[0]"),
        ({"proxies": [{"listeners": [], "routes": [], "nonsense": 1}]}, "proxies[0].nonsense"),
        ({"proxies": [], "nonsense": 1}, "nonsense"),
    ],
)
def test_what_is_of_no_form(content: dict[str, Any], place: str) -> None:
    _, problems = translate(content)
    assert [problem.place for problem in problems] == [place]


def test_wrong_values_are_found_like_any_others(tmp_path: Path) -> None:
    found = loaded(
        tmp_path, proxy(routes=[{"sni": "a.example", "upstreams": [{"kind": "uds", "path": 5}]}, 7])
    )
    assert {"routes[0].upstreams[0].path", "routes[1]"} <= {problem.place for problem in found.problems}


def test_admin(tmp_path: Path) -> None:
    found = loaded(tmp_path, proxy(), admin={"socketPath": "admin.sock", "port": 9000, "more": 1})
    assert found.config is not None and found.config.admin is not None
    assert (found.config.admin.socket_path, found.config.admin.port) == ("admin.sock", 9000)
