"""The Python interface: every form in which a program may say what it wants, and what it is told of the end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from symphony import (
    Certificate,
    Config,
    ConfigError,
    Listener,
    MutualTls,
    NotRunning,
    ResolveRoute,
    Route,
    RouteRefused,
    Suspended,
    SymphonyProxy,
    TcpUpstream,
    UdsUpstream,
)
from symphony.relay import proxy_tlv
from symphony.tls.certificate_maker import MadeCertificate, make_authority, make_certificate
from tests.support.peers import PlainPeer
from tests.support.ports import lasting_port
from tests.support.proxy_headers import receive_header, tlv
from tests.support.services import Service
from tests.support.symphony_process import running_symphony
from tests.support.tls_client import client_context, get

LIMIT_S = 20.0


@pytest.fixture(scope="module")
def made() -> MadeCertificate:
    return make_certificate(["localhost"])


async def call(port: int, context: ssl.SSLContext | None = None) -> bytes:
    return (await asyncio.to_thread(get, port, "localhost", context or client_context())).body


async def port_of(proxy: SymphonyProxy, listener: int = 0) -> int:
    return int((await proxy.status()).listeners[listener].address.rpartition(":")[2])


async def check_served(proxy: SymphonyProxy, version: int) -> None:
    """Every acceptor serves a version."""
    assert set((await proxy.metrics()).applied.values()) == {version}


async def test_routes_from_a_file_a_configuration_and_a_mapping(
    made: MadeCertificate, tmp_path: Path
) -> None:
    """PEM may be bytes, and files may be paths, in typed objects as in mappings."""
    (tmp_path / "key.pem").write_bytes(made.key_pem)
    (tmp_path / "key.pem").chmod(0o600)
    certificate = Certificate(cert_chain=made.chain_pem, private_key_file=tmp_path / "key.pem")  # type: ignore[arg-type]
    with ExitStack() as stack:
        services = [stack.enter_context(Service(name)) for name in ("one", "two", "three", "four")]
        one, two, three, four = (Route(sni="", upstreams=(service.upstream,)) for service in services)
        listener = Listener(host="127.0.0.1", port=0, default_cert=certificate)
        config = Config(workers=1, listeners=(listener,), routes=(one,))
        file = tmp_path / "routes.toml"
        (tmp_path / "two.sock").symlink_to(services[1].path)
        file.write_text(
            '[[listeners]]\nport = 1\n[[routes]]\nsni = ""\n'
            'upstreams = [{ kind = "uds", path = "two.sock" }]\n'
        )
        async with SymphonyProxy(config) as proxy:
            port = await port_of(proxy)
            assert await call(port) == b"one"
            for routes, answer in (
                (file, b"two"),
                (str(file), b"two"),
                (Config(listeners=(), routes=(three,)), b"three"),
                ({"routes": [four]}, b"four"),
                ((two,), b"two"),
            ):
                await check_served(proxy, await proxy.update_config(routes=routes))  # type: ignore[arg-type]
                assert await call(port) == answer, routes
            for wrong in (5, [[]], tmp_path / "gone.toml"):
                with pytest.raises((TypeError, ConfigError)):
                    await proxy.update_config(routes=wrong)  # type: ignore[arg-type]
            assert await call(port) == b"two"


async def test_a_file_of_the_original_is_started_and_updated(made: MadeCertificate, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(made.key_pem)
    (tmp_path / "key.pem").chmod(0o600)
    certificate = {"certChain": made.chain_pem.decode(), "privateKeyFile": "key.pem"}
    with Service("one") as one, Service("two") as two, Service("three") as three:

        def routes(service: Service) -> list[dict[str, Any]]:
            upstreams = [{"kind": "uds", "path": service.path}]
            return [{"sni": "", "terminateTls": True, "upstreams": upstreams, "sourceAddressHeader": "none"}]

        proxies = [
            {
                "listeners": [{"host": "127.0.0.1", "port": lasting_port(), "defaultCert": certificate}],
                "routes": routes(service),
                "workerThreads": 1,
            }
            for service in (one, two)
        ]
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"version": 1, "proxies": proxies}))
        async with SymphonyProxy(path) as proxy:
            ports = [await port_of(proxy, listener) for listener in (0, 1)]
            assert [await call(port) for port in ports] == [b"one", b"two"]
            version = await proxy.update_config(routes=[Route(sni="", upstreams=(three.upstream,))])
            await check_served(proxy, version)
            assert [await call(port) for port in ports] == [b"three", b"three"]
            await check_served(proxy, await proxy.update_config(routes=path))
            assert [await call(port) for port in ports] == [b"one", b"two"]
        path.write_text(json.dumps({"version": 1, "proxies": 5}))
        with pytest.raises(ConfigError, match="proxies: expected an array"):
            await SymphonyProxy(path).start()


async def test_a_held_connection_gets_all_that_a_route_can_say(made: MadeCertificate) -> None:
    """A certificate, client certificates, and how the upstream is told of the client; the fingerprint, too."""
    other, authority = make_certificate(["other"]), make_authority("clients")
    client = make_certificate(["client"], authority=authority, client=True)
    certificate = {"cert_chain": made.chain_pem, "private_key": made.key_pem}
    said: list[ResolveRoute | dict[str, Any]] = []
    problems: list[Exception] = []
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        upstream.settimeout(LIMIT_S)
        gate = {
            "sni": "",
            "suspended": True,
            "upstreams": [{"kind": "tcp", "host": "127.0.0.1", "port": upstream.getsockname()[1]}],
        }
        config = {
            "workers": 1,
            "listeners": [{"host": "127.0.0.1", "port": 0, "default_cert": certificate}],
            "routes": [gate],
        }

        def serve() -> tuple[bytes, bytes]:
            """Take one connection; return its two fingerprints from the header before its request."""
            sock, _ = upstream.accept()
            with sock:
                sock.settimeout(LIMIT_S)
                header = receive_header(PlainPeer(sock)).header
                request = b""
                while b"\r\n\r\n" not in request:
                    request += sock.recv(4096)
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return tlv(header, proxy_tlv.JA3), tlv(header, proxy_tlv.JA4)

        async with SymphonyProxy(config) as proxy:
            held: list[Suspended] = []

            async def decide(connection: Suspended) -> None:
                held.append(connection)
                for route in said:
                    try:
                        await proxy.resolve_connection(connection.id, route)
                    except Exception as error:  # noqa: BLE001 - asserted below
                        problems.append(error)

            proxy.on("suspended", decide)
            port = await port_of(proxy)
            said[:] = [
                {"source_address_header": "x_forwarded_for", "terminate_tls": False},
                {"forward_fingerprint": ["ja3"]},
                {"mtls": {"client_ca_cert": authority.cert_pem}, "terminate_tls": False},
                {"nonsense": 1},
                ResolveRoute(
                    cert_chain=other.chain_pem,
                    private_key=other.key_pem,
                    mtls=MutualTls(client_ca_cert=authority.cert_pem.decode()),
                    source_address_header="proxy_protocol_v2",
                    forward_fingerprint=("ja3", "ja4"),
                ),
            ]
            serving = asyncio.create_task(asyncio.to_thread(serve))
            context = client_context(certificate=client, trusted=other.chain_pem)
            context.check_hostname = False
            assert await call(port, context) == b"ok"
            assert await serving == (held[0].ja3.encode(), held[0].ja4.encode())
            assert held[0].ja3 and held[0].ja4
            assert [type(problem) for problem in problems] == [RouteRefused] * 3 + [ConfigError]
            assert "x_forwarded_for" in str(problems[0]) and "no place for a fingerprint" in str(problems[1])
            with suppress(OSError):  # a client without the certificate that was asked for gets no answer
                assert await call(port, client_context()) == b""


async def test_the_end_of_an_instance_is_told_to_who_attached(made: MadeCertificate) -> None:
    text = """
workers = 1
[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = { cert_chain_file = "cert.pem", private_key_file = "key.pem" }
"""
    files = {"cert.pem": made.chain_pem, "key.pem": made.key_pem}
    told: list[str] = []
    with running_symphony(text, files=files) as running:
        proxy = SymphonyProxy.attach(running.runtime_dir)
        proxy.on("ready", lambda _: told.append("ready"))
        proxy.on("close", lambda _: told.append("close"))
        async with proxy:
            assert (await proxy.status()).pid == running.pid
            assert await asyncio.to_thread(running.stop) == 0
            async with asyncio.timeout(LIMIT_S):
                await proxy.wait_closed()
            for ask in (proxy.metrics, proxy.status, proxy.suspended, proxy.blocked_ips):
                with pytest.raises(NotRunning):
                    await ask()
            with pytest.raises(NotRunning):
                await proxy.resolve_connection("0-nothing-1", None)
            with pytest.raises(NotRunning):
                await anext(aiter(proxy.events()))
    assert told == ["ready", "close"]


async def test_a_tree_that_is_killed_is_not_running_any_more(made: MadeCertificate) -> None:
    certificate = Certificate(cert_chain=made.chain_pem.decode(), private_key=made.key_pem.decode())
    listener = Listener(host="127.0.0.1", port=0, default_cert=certificate)
    upstreams = (TcpUpstream(host="127.0.0.1", port=1), UdsUpstream(path="nowhere"))
    config = Config(workers=1, listeners=(listener,), routes=(Route(sni="", upstreams=upstreams),))
    closed: list[None] = []
    async with SymphonyProxy(config) as proxy:
        proxy.on("close", closed.append)
        pid = (await proxy.status()).pid
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(LIMIT_S):
            await proxy.wait_closed()
        with pytest.raises(NotRunning):
            await proxy.metrics()
        with pytest.raises(NotRunning):
            await proxy.update_config(routes=[])
    assert closed == [None]
