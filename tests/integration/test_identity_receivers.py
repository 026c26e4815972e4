"""Who the client is, as nginx and HAProxy read it behind a whole ``symphony run``, with real clients in front."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from symphony.config.model import SourceAddressHeader, TcpUpstream
from symphony.tls.certificate_maker import MadeCertificate, make_authority, make_certificate
from tests.support.ports import lasting_port
from tests.support.probing import QUICK_TLS, Probing
from tests.support.programs import STREAM_MODULE, Running, haproxy_that_tells, program
from tests.support.symphony_process import SymphonyProcess, running_symphony

LIMIT_S = 20.0
AUTHORITY = make_authority("Symphony's tests")
SERVER = make_certificate(["localhost", "*.example.test"], authority=AUTHORITY)
SEEN = "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port"


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sy", dir="/tmp"))
    try:
        put(path, "server", SERVER)
        (path / "ca.pem").write_bytes(AUTHORITY.cert_pem)
        yield path
    finally:
        shutil.rmtree(path)


def put(directory: Path, name: str, certificate: MadeCertificate) -> None:
    (directory / f"{name}.pem").write_bytes(certificate.chain_pem)
    (directory / f"{name}.key").write_bytes(certificate.key_pem)
    (directory / f"{name}.key").chmod(0o600)


def nginx_version() -> tuple[int, ...]:
    done = subprocess.run(
        [program("nginx"), "-v"], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", done.stderr)
    assert found, done.stderr
    return tuple(map(int, found.groups()))


class Nginx:
    """nginx with an HTTP server on TCP and on a Unix socket, and stream servers, plain and with TLS of its own."""

    def __init__(self, directory: Path) -> None:
        path = program("nginx")
        if not STREAM_MODULE.exists():
            pytest.skip("nginx's stream module is not installed")
        self.http, self.stream, self.tls = lasting_port(), lasting_port(), lasting_port()
        self.uds = directory / "nginx.sock"
        (directory / "nginx.conf").write_text(f"""
load_module {STREAM_MODULE};
daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;
events {{ worker_connections 128; }}
http {{
    access_log off;
    client_header_buffer_size 1k;  # the default, which a header with everything but certificates must fit into
    client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
    uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    server {{
        listen 127.0.0.1:{self.http} proxy_protocol;
        listen unix:{self.uds} proxy_protocol;
        return 200 "{SEEN} $request_uri";
    }}
}}
stream {{
    server {{ listen 127.0.0.1:{self.stream} proxy_protocol; return "{SEEN}"; }}
    server {{
        listen 127.0.0.1:{self.tls} ssl proxy_protocol;
        ssl_certificate {directory}/server.pem; ssl_certificate_key {directory}/server.key;
        return "{SEEN}";
    }}
}}
""")
        command = [path, "-p", str(directory), "-c", str(directory / "nginx.conf")]
        self.running = Running(directory, command, self.http)


@pytest.fixture(scope="module")
def nginx(directory: Path) -> Iterator[Nginx]:
    started = Nginx(directory)
    yield started
    started.running.stop()


@pytest.fixture(scope="module")
def haproxy(directory: Path) -> Iterator[Running]:
    started = haproxy_that_tells(directory)
    yield started
    started.stop()


def route(name: str, header: str, upstream: str, *more: str) -> str:
    return "\n".join(
        [
            "[[routes]]",
            f'sni = "{name}.example.test"',
            f'source_address_header = "{header}"',
            f"upstreams = [{upstream}]",
            *more,
            "",
        ]
    )


def tcp(port: int) -> str:
    return f'{{ kind = "tcp", host = "127.0.0.1", port = {port} }}'


@pytest.fixture(scope="module")
def symphony(nginx: Nginx, haproxy: Running) -> Iterator[SymphonyProcess]:
    prints = 'forward_fingerprint = ["ja3", "ja4"]'
    config = "\n".join(
        [
            "workers = 2",
            "[[listeners]]",
            'host = "127.0.0.1"',
            "port = 0",
            'default_cert = { cert_chain_file = "server.pem", private_key_file = "server.key" }',
            "[[listeners]]",
            'host = "::1"',
            "port = 0",
            'default_cert = { cert_chain_file = "server.pem", private_key_file = "server.key" }',
            route("nginx1", "proxy_protocol", tcp(nginx.http)),
            route("nginx2", "proxy_protocol_v2", tcp(nginx.http), prints),
            route("uds1", "proxy_protocol", f'{{ kind = "uds", path = "{nginx.uds}" }}'),
            route("uds2", "proxy_protocol_v2", f'{{ kind = "uds", path = "{nginx.uds}" }}', prints),
            route("stream1", "proxy_protocol", tcp(nginx.stream)),
            route("stream2", "proxy_protocol_v2", tcp(nginx.stream), prints),
            route("pass1", "proxy_protocol", tcp(nginx.tls), "terminate_tls = false"),
            route("pass2", "proxy_protocol_v2", tcp(nginx.tls), "terminate_tls = false", prints),
            route("haproxy1", "proxy_protocol", tcp(haproxy.port)),
            route("haproxy2", "proxy_protocol_v2", tcp(haproxy.port), prints),
            route("none", "none", tcp(nginx.http)),
        ]
    )
    files = {"server.pem": SERVER.chain_pem, "server.key": SERVER.key_pem}
    with running_symphony(config, files=files) as started:
        yield started
        assert "Traceback" not in started.log


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=AUTHORITY.cert_pem.decode())


def open_tls(symphony: SymphonyProcess, name: str, host: str = "127.0.0.1") -> ssl.SSLSocket:
    port = symphony.port(0 if host == "127.0.0.1" else 1)
    sock = socket.create_connection((host, port), LIMIT_S)
    return trusting().wrap_socket(sock, server_hostname=f"{name}.example.test")


def everything(sock: ssl.SSLSocket) -> bytes:
    got = b""
    while part := sock.recv(65536):
        got += part
    return got


def endpoints(sock: socket.socket) -> str:
    return "{} {} {} {}".format(*sock.getsockname()[:2], *sock.getpeername()[:2])


def get(sock: ssl.SSLSocket, path: str = "/", *, close: bool = True) -> str:
    """The body of one response, which has a Content-Length."""
    connection = "close" if close else "keep-alive"
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n\r\n".encode())
    got = b""
    while b"\r\n\r\n" not in got:
        part = sock.recv(65536)
        assert part, got
        got += part
    head, _, body = got.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(fields[b"content-length"]):
        body += sock.recv(65536)
    return body.decode()


@pytest.mark.parametrize(
    ("header", "state"), [("proxy_protocol", "up"), ("proxy_protocol_v2", "up"), ("none", "down")]
)
async def test_health_checks_of_nginx_that_expects_a_header(
    nginx: Nginx, header: SourceAddressHeader, state: str
) -> None:
    upstream = TcpUpstream(host="127.0.0.1", port=nginx.tls)
    async with Probing((upstream, QUICK_TLS), header=header) as probing:
        await probing.until(state)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("name", ["nginx1", "nginx2", "uds1", "uds2"])
def test_nginx_http(symphony: SymphonyProcess, name: str, host: str) -> None:
    with open_tls(symphony, name, host) as client:
        for number in range(3):  # one header for all requests of a connection
            path = f"/{number}"
            assert get(client, path, close=False) == f"{endpoints(client)} {path}"


# Its stream module took no header above 107 bytes before 1.23.2, and ours of version 2 is longer.
_STREAM_TAKES_V2 = ["stream2", "pass2"] if shutil.which("nginx") and nginx_version() >= (1, 23, 2) else []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("name", ["stream1", "pass1", *_STREAM_TAKES_V2])
def test_nginx_stream(symphony: SymphonyProcess, name: str, host: str) -> None:
    """Those that pass through are decrypted by nginx, behind the header; the client sees nginx's certificate."""
    with open_tls(symphony, name, host) as client:
        assert everything(client).decode() == endpoints(client)


@pytest.mark.parametrize("name", ["haproxy1", "haproxy2"])
def test_haproxy(symphony: SymphonyProcess, name: str) -> None:
    ids = set()
    for _ in range(3):
        with open_tls(symphony, name) as client:
            said = get(client).split(" ")
            assert " ".join(said[:5]) == f"{endpoints(client)} 1"
            assert said[5] == ("haproxy2.example.test" if name == "haproxy2" else "")
            ids.add(said[6])
    assert len(ids) == (3 if name == "haproxy2" else 1)


def test_curl(symphony: SymphonyProcess, directory: Path) -> None:
    port = symphony.port()
    for name in ("nginx1", "nginx2", "haproxy2"):
        host = f"{name}.example.test"
        done = subprocess.run(
            [
                program("curl"),
                "-sS",
                "--noproxy",
                "*",
                "--max-time",
                "10",
                "--cacert",
                str(directory / "ca.pem"),
                "--resolve",
                f"{host}:{port}:127.0.0.1",
                "-w",
                "\n%{local_ip} %{local_port}",
                f"https://{host}:{port}/",
            ],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
        assert done.returncode == 0, done.stderr
        body, _, local = done.stdout.rpartition("\n")
        assert body.startswith(f"{local} 127.0.0.1 {port} ")


def test_a_receiver_without_a_header_refuses(symphony: SymphonyProcess) -> None:
    """So what the others said was of the header: nginx takes no connection there without one."""
    with open_tls(symphony, "none") as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        try:
            assert client.recv(1000) == b""
        except OSError:
            pass
