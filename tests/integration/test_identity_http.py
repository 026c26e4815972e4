"""A whole ``symphony run`` that names the client in HTTP requests, between real clients and real HTTP servers."""

from __future__ import annotations

import base64
import hashlib
import http.client
import http.server
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from symphony.relay.http_rewriter import BAD_REQUEST
from symphony.tls import fingerprint
from symphony.tls.certificate_maker import make_authority, make_certificate
from symphony.tls.client_hello import ClientHello, parse
from tests.support.ports import lasting_port
from tests.support.programs import Running, program
from tests.support.symphony_process import SymphonyProcess, running_symphony
from tests.support.tls_client import SteppedClient, client_context

LIMIT_S = 20.0
AUTHORITY = make_authority("Symphony's tests")
SERVER = make_certificate(["localhost", "*.example.test"], authority=AUTHORITY)
OURS = ("x-forwarded-for", "x-forwarded-proto", "x-real-ip", "x-ja3", "x-ja4")
SPOOFED = {
    "X-Forwarded-For": "10.0.0.1, 10.0.0.2",
    "x_forwarded_for": "10.0.0.3",
    "X-Forwarded-Proto": "http",
    "X-REAL-IP": "10.0.0.4",
    "X-JA3": "spoofed",
    "X-Ja4": "spoofed",
}


class Echo(http.server.BaseHTTPRequestHandler):
    """Says what it was asked: the fields that name the client, and a digest of the body."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                assert self.rfile.read(2) == b"\r\n"
            while self.rfile.readline() != b"\r\n":
                pass
            self._answer(b"".join(parts))
        else:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    do_PUT = do_POST

    def _answer(self, body: bytes) -> None:
        found = {
            name: self.headers.get_all(name) for name in (*OURS, "x_forwarded_for") if name in self.headers
        }
        said = {"path": self.path, "fields": found, "sha256": hashlib.sha256(body).hexdigest()}
        answer = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sy", dir="/tmp"))
    try:
        (path / "ca.pem").write_bytes(AUTHORITY.cert_pem)
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join(LIMIT_S)
    server.server_close()


@pytest.fixture(scope="module")
def nginx(directory: Path) -> Iterator[int]:
    path, port = program("nginx"), lasting_port()
    seen = (
        "$http_x_forwarded_for|$http_x_forwarded_proto|$http_x_real_ip|$http_x_ja3|$http_x_ja4|$request_uri"
    )
    (directory / "nginx.conf").write_text(f"""
daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    underscores_in_headers on;
    client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
    uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    server {{ listen 127.0.0.1:{port}; return 200 "{seen}"; }}
}}
""")
    running = Running(directory, [path, "-p", str(directory), "-c", str(directory / "nginx.conf")], port)
    yield port
    running.stop()


@pytest.fixture(scope="module")
def symphony(echo: int, nginx: int) -> Iterator[SymphonyProcess]:
    def route(name: str, port: int, *more: str) -> str:
        upstream = f'upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = {port} }}]'
        header = 'source_address_header = "x_forwarded_for"'
        return "\n".join(["[[routes]]", f'sni = "{name}.example.test"', header, upstream, *more, ""])

    prints = 'forward_fingerprint = ["ja3", "ja4"]'
    config = "\n".join(
        [
            "workers = 2",
            "[[listeners]]",
            'host = "127.0.0.1"',
            "port = 0",
            'default_cert = { cert_chain_file = "server.pem", private_key_file = "server.key" }',
            "[[listeners]]",
            'host = "127.0.0.1"',
            "port = 0",
            "accept_proxy_protocol = true",
            'trusted_proxies = ["127.0.0.1"]',
            'default_cert = { cert_chain_file = "server.pem", private_key_file = "server.key" }',
            route("echo", echo),
            route("prints", echo, prints),
            route("nginx", nginx),
            route("nginxprints", nginx, prints),
        ]
    )
    files = {"server.pem": SERVER.chain_pem, "server.key": SERVER.key_pem}
    with running_symphony(config, files=files) as started:
        yield started
        assert "Traceback" not in started.log


class Https(http.client.HTTPConnection):
    """Python's HTTP client on a TLS connection to a name, and with a header in front where given."""

    def __init__(self, symphony: SymphonyProcess, name: str, before: bytes = b"") -> None:
        super().__init__("127.0.0.1", symphony.port(1 if before else 0), timeout=LIMIT_S)
        self._name = f"{name}.example.test"
        self._before = before

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), LIMIT_S)
        plain.sendall(self._before)
        context = ssl.create_default_context(cadata=AUTHORITY.cert_pem.decode())
        self.sock = context.wrap_socket(plain, server_hostname=self._name)

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        self.request(method, path, body, headers=SPOOFED, **more)
        answer = self.getresponse()
        assert answer.status == 200
        return json.loads(answer.read())


def test_every_request_of_a_connection(symphony: SymphonyProcess) -> None:
    connection = Https(symphony, "echo")
    connection.connect()
    sock = connection.sock
    for number in range(30):
        body = os.urandom(number * 1000)
        if number % 3 == 0:
            said = connection.ask("GET", f"/{number}")
            body = b""
        elif number % 3 == 1:
            said = connection.ask("POST", f"/{number}", body)
        else:
            pieces = [body[at : at + 700] for at in range(0, len(body), 700)]
            said = connection.ask("POST", f"/{number}", iter(pieces), encode_chunked=True)
        assert said == {
            "path": f"/{number}",
            "fields": {
                "x-forwarded-for": ["127.0.0.1"],
                "x-forwarded-proto": ["https"],
                "x-real-ip": ["127.0.0.1"],
            },
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        assert connection.sock is sock
    connection.close()


def test_fingerprints(symphony: SymphonyProcess) -> None:
    context = ssl.create_default_context(cadata=AUTHORITY.cert_pem.decode())
    hello = parse(SteppedClient("prints.example.test", context).hello())
    assert isinstance(hello, ClientHello)
    connection = Https(symphony, "prints")
    for _ in range(3):
        fields = connection.ask("GET", "/")["fields"]
        assert fields["x-ja3"] == [fingerprint.ja3(hello)[1]]
        assert fields["x-ja4"] == [fingerprint.ja4(hello)]
    connection.close()


def test_the_client_that_a_load_balancer_names(symphony: SymphonyProcess) -> None:
    for header, address in (
        (b"PROXY TCP4 203.0.113.7 198.51.100.9 56324 443\r\n", "203.0.113.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::9 56324 443\r\n", "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:203.0.113.7 ::ffff:198.51.100.9 56324 443\r\n", "203.0.113.7"),
    ):
        connection = Https(symphony, "echo", header)
        fields = connection.ask("GET", "/")["fields"]
        assert (fields["x-forwarded-for"], fields["x-real-ip"]) == ([address], [address])
        connection.close()


@pytest.mark.parametrize("name", ["nginx", "nginxprints"])
def test_curl_and_nginx(symphony: SymphonyProcess, directory: Path, name: str) -> None:
    """Several requests on one connection, with and without bodies, with everything spoofed."""
    (directory / "body").write_bytes(os.urandom(300_000))
    port, host = symphony.port(), f"{name}.example.test"
    url = f"https://{host}:{port}"
    spoofed = [word for field, value in SPOOFED.items() for word in ("-H", f"{field}: {value}")]
    common = [
        *("-sS", "--noproxy", "*", "--max-time", "10", "--cacert", str(directory / "ca.pem"), "--http1.1"),
        *("--resolve", f"{host}:{port}:127.0.0.1", *spoofed, "-w", " %{num_connects}\n"),
    ]
    upload = ["--data-binary", f"@{directory}/body", "-H", "Expect: 100-continue"]
    chunked = [*upload, "-H", "Transfer-Encoding: chunked"]
    command = [program("curl"), *common, f"{url}/1", f"{url}/2"]
    for more, path in ((upload, "3"), (chunked, "4"), ([], "5")):
        command += ["--next", *common, *more, f"{url}/{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ") for line in done.stdout.splitlines()]
    assert [line[1] for line in lines] == ["1", "0", "0", "0", "0"]
    for number, (seen, _) in enumerate(lines, 1):
        address, scheme, real, ja3, ja4, path = seen.split("|")
        assert (address, scheme, real, path) == ("127.0.0.1", "https", "127.0.0.1", f"/{number}")
        assert len(ja3) == (32 if name == "nginxprints" else 0)
        assert ja4.startswith("t13d" if name == "nginxprints" else "") and bool(ja4) == bool(ja3)


def test_a_smuggled_request(symphony: SymphonyProcess) -> None:
    """Refused and counted, and answered; nginx has seen nothing of it."""
    data = (
        b"POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        b"GET /admin HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"
    )
    before = symphony.status().connections.errors.get("http_ambiguous", 0)
    with (
        socket.create_connection(("127.0.0.1", symphony.port()), LIMIT_S) as plain,
        client_context().wrap_socket(plain, server_hostname="nginx.example.test") as client,
    ):
        client.sendall(data)
        got = b""
        while part := client.recv(1000):
            got += part
        assert got == BAD_REQUEST
    symphony.wait_for(lambda status: status.connections.errors.get("http_ambiguous", 0) == before + 1)


def test_a_websocket_of_another_implementation(symphony: SymphonyProcess, tmp_path: Path) -> None:
    """curl as the client, byte by byte upgraded; the server is a socket of this test behind the same kind of route."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(LIMIT_S)
    key = base64.b64encode(os.urandom(16)).decode()
    seen: list[bytes] = []

    def serve() -> None:
        server, _ = listening.accept()
        with server:
            server.settimeout(LIMIT_S)
            head = b""
            while b"\r\n\r\n" not in head:
                head += server.recv(1)
            seen.append(head)
            server.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
            )
            server.sendall(b"\x81\x05hello")

    config = f"""
[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = {{ cert_chain_file = "server.pem", private_key_file = "server.key" }}

[[routes]]
sni = "ws.example.test"
source_address_header = "x_forwarded_for"
upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = {listening.getsockname()[1]} }}]
"""
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.cert_pem)
    serving = threading.Thread(target=serve)
    serving.start()
    files = {"server.pem": SERVER.chain_pem, "server.key": SERVER.key_pem}
    with listening, running_symphony(config, files=files) as own:
        url = f"https://ws.example.test:{own.port()}/"
        done = subprocess.run(
            [
                *(
                    program("curl"),
                    "-sS",
                    "-i",
                    "--noproxy",
                    "*",
                    "--max-time",
                    "10",
                    "--http1.1",
                    "--no-buffer",
                ),
                *(
                    "--cacert",
                    str(tmp_path / "ca.pem"),
                    "--resolve",
                    f"ws.example.test:{own.port()}:127.0.0.1",
                ),
                *("-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", f"Sec-WebSocket-Key: {key}"),
                *("-H", "Sec-WebSocket-Version: 13", "-H", "X-Forwarded-For: 10.0.0.1", url),
            ],
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
        serving.join(LIMIT_S)
    assert done.stdout.startswith(b"HTTP/1.1 101 Switching Protocols"), (done.stdout, done.stderr)
    assert done.stdout.endswith(b"\r\n\r\n\x81\x05hello")
    assert b"Upgrade: websocket\r\n" in seen[0]
    assert seen[0].count(b"X-Forwarded-For: 127.0.0.1\r\n") == 1
    assert b"10.0.0.1" not in seen[0]
