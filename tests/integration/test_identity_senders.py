"""A whole ``symphony run`` behind real load balancers: HAProxy and curl send the PROXY headers."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from symphony.relay import proxy_tlv
from symphony.tls.certificate_maker import make_authority, make_certificate
from tests.support.peers import UpstreamHost, receive_exactly
from tests.support.ports import lasting_port
from tests.support.programs import Running, program
from tests.support.proxy_headers import receive_header, tlv
from tests.support.symphony_process import SymphonyProcess, running_symphony

LIMIT_S = 20.0
AUTHORITY = make_authority("Symphony's tests")
SERVER = make_certificate(["app.example.test"], authority=AUTHORITY)
CONFIG = """
workers = 2

[[listeners]]
host = "127.0.0.1"
port = 0
accept_proxy_protocol = true
trusted_proxies = [{trusted}]
default_cert = {{ cert_chain_file = "server.pem", private_key_file = "server.key" }}

[[routes]]
sni = "app.example.test"
source_address_header = "proxy_protocol_v2"
upstreams = [{{ kind = "uds", path = "{path}" }}]
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[UpstreamHost]:
    host = UpstreamHost("uds")
    yield host
    host.close()


@pytest.fixture(scope="module")
def symphony(upstream: UpstreamHost) -> Iterator[SymphonyProcess]:
    config = CONFIG.format(trusted='"127.0.0.1/32"', path=upstream.path)
    files = {"server.pem": SERVER.chain_pem, "server.key": SERVER.key_pem}
    with running_symphony(config, files=files) as started:
        yield started
        assert "Traceback" not in started.log


@contextmanager
def haproxy_in_front(symphony: SymphonyProcess, option: str) -> Iterator[int]:
    """A load balancer that passes TLS through to Symphony; its port."""
    directory = Path(tempfile.mkdtemp(prefix="sy", dir="/tmp"))
    port = lasting_port()
    (directory / "haproxy.cfg").write_text(f"""
defaults
    mode tcp
    timeout client 10s
    timeout connect 10s
    timeout server 10s
listen balancer
    bind 127.0.0.1:{port}
    server symphony 127.0.0.1:{symphony.port()} {option}
""")
    try:
        running = Running(directory, [program("haproxy"), "-db", "-f", str(directory / "haproxy.cfg")], port)
        try:
            yield port
        finally:
            running.stop()
    finally:
        shutil.rmtree(directory)


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=AUTHORITY.cert_pem.decode())


@pytest.mark.parametrize(
    "option", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,authority,unique-id,ssl"]
)
def test_haproxy(symphony: SymphonyProcess, upstream: UpstreamHost, option: str) -> None:
    with haproxy_in_front(symphony, option) as port:
        for _ in range(5):
            with (
                socket.create_connection(("127.0.0.1", port), LIMIT_S) as plain,
                trusting().wrap_socket(plain, server_hostname="app.example.test") as client,
            ):
                server = upstream.accept()
                with server.sock:
                    found = receive_header(server).header
                    assert (found.source, found.destination) == (client.getsockname(), ("127.0.0.1", port))
                    assert tlv(found, proxy_tlv.AUTHORITY) == b"app.example.test"
                    client.sendall(b"question")
                    assert receive_exactly(server, 8) == b"question"
                    server.send(b"answer")
                    assert client.recv(100) == b"answer"


def test_haproxy_without_headers_is_refused(symphony: SymphonyProcess) -> None:
    before = symphony.status().connections.errors.get("malformed_proxy_header", 0)
    with (
        haproxy_in_front(symphony, "") as port,
        socket.create_connection(("127.0.0.1", port), LIMIT_S) as plain,
    ):
        with pytest.raises((ssl.SSLError, OSError)):
            trusting().wrap_socket(plain, server_hostname="app.example.test")
        symphony.wait_for(lambda status: status.connections.errors.get("malformed_proxy_header", 0) > before)


def test_the_checks_of_haproxy_find_it_alive(symphony: SymphonyProcess, upstream: UpstreamHost) -> None:
    """It checks with LOCAL headers and a handshake of its own; a server that is down would get no connection."""
    option = "send-proxy-v2 check check-send-proxy check-ssl verify none check-sni app.example.test inter 100ms rise 2"
    with haproxy_in_front(symphony, option) as port:
        for _ in range(4):  # the connections of the checks, and perhaps of nobody else
            server = upstream.accept()
            with server.sock:
                found = receive_header(server).header
                assert found.source is not None
                assert found.source[0] == "127.0.0.1"
        assert port


def test_curl(symphony: SymphonyProcess, upstream: UpstreamHost, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.cert_pem)
    port = symphony.port()
    seen: list[object] = []

    def serve() -> None:
        server = upstream.accept()
        with server.sock:
            seen.append(receive_header(server).header)
            server.receive()
            server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    serving = threading.Thread(target=serve)
    serving.start()
    done = subprocess.run(
        [
            *(program("curl"), "-sS", "--noproxy", "*", "--max-time", "10", "--haproxy-protocol"),
            *("--cacert", str(tmp_path / "ca.pem"), "--resolve", f"app.example.test:{port}:127.0.0.1"),
            *("-w", " %{local_ip} %{local_port}", f"https://app.example.test:{port}/"),
        ],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    serving.join(LIMIT_S)
    assert done.returncode == 0, done.stderr
    body, address, local_port = done.stdout.split(" ")
    (header,) = seen
    assert body == "ok"
    assert header.source == (address, int(local_port))  # type: ignore[attr-defined]


def test_who_may_say_it_follows_the_configuration(upstream: UpstreamHost) -> None:
    """A reload that trusts others takes effect at once, for connections from then on."""
    files = {"server.pem": SERVER.chain_pem, "server.key": SERVER.key_pem}
    config = CONFIG.format(trusted='"192.0.2.0/24"', path=upstream.path)
    with running_symphony(config, files=files) as symphony:
        header = b"PROXY TCP4 203.0.113.7 198.51.100.9 56324 443\r\n"
        try:
            with socket.create_connection(("127.0.0.1", symphony.port()), LIMIT_S) as plain:
                plain.sendall(header)
                assert plain.recv(1) == b""
        except ConnectionError:
            pass  # so quickly
        symphony.wait_for(lambda status: status.connections.errors == {"untrusted_proxy": 1})
        symphony.config_file.write_text(CONFIG.format(trusted='"127.0.0.0/8"', path=upstream.path))
        done = symphony.command("reload")
        assert done.returncode == 0, done.stderr
        with socket.create_connection(("127.0.0.1", symphony.port()), LIMIT_S) as plain:
            plain.sendall(header)
            with trusting().wrap_socket(plain, server_hostname="app.example.test"):
                server = upstream.accept()
                with server.sock:
                    assert receive_header(server).header.source == ("203.0.113.7", 56324)
