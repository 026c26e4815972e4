"""TLS as real clients see it: Python's ssl, ``openssl s_client`` and ``curl``, through two acceptors."""

from __future__ import annotations

import os
import select
import shutil
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from symphony.config.model import UdsUpstream
from symphony.config.snapshot import ClientAuthority, Identity
from symphony.observe.counters import HANDSHAKES
from symphony.observe.reasons import Reason
from symphony.tls.certificate_maker import make_authority, make_certificate
from tests.support.acceptor import (
    IDENTITY,
    AcceptorRig,
    Tls,
    complaints,
    cpu_seconds,
    route,
    running,
    snapshot,
    wait_until,
)
from tests.support.actor_process import Stage
from tests.support.peers import UpstreamHost, receive_exactly
from tests.support.services import Service
from tests.support.tls_client import SteppedClient, client_context, connect, get

LIMIT_S = 10
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program here")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl program here")


def identity(*names: str, key_type: str = "ec") -> Identity:
    made = make_certificate(names, key_type=key_type)  # type: ignore[arg-type]
    return Identity(made.chain_pem, made.key_pem)


SECOND = identity("second.test")
RSA = identity("rsa.test", key_type="rsa")
ROOT = make_authority("root")
INTERMEDIATE = make_authority("intermediate", authority=ROOT)


@pytest.fixture(scope="module")
def rig() -> Iterator[AcceptorRig]:
    with ExitStack() as stack:
        services = {
            name: stack.enter_context(Service(name)).upstream for name in ("local", "second", "intermediate")
        }
        authority = ClientAuthority(INTERMEDIATE.cert_pem, True)
        routes = snapshot(
            route("localhost", services["local"]),
            route("*.example.test", services["local"]),
            route("h2.test", services["local"], policy=1),
            route("second.test", services["second"], policy=2),
            route("rsa.test", services["second"], policy=3),
            route("intermediate.test", services["intermediate"], policy=4),
            more=[Tls(http2=True), Tls(SECOND), Tls(RSA), Tls(authority=authority)],
        )
        stage = stack.enter_context(Stage())
        rig = AcceptorRig(stage, routes, acceptors=2)
        stack.callback(rig.close)
        processes = [rig.start(index) for index in range(2)]
        yield rig
        wait_until(lambda: rig.active == 0, "all are over")
        assert [complaints(process) for process in processes] == [[], []]


def s_client(port: int, name: str, *words: str, request: bytes | None = None) -> str:
    """What ``openssl s_client`` prints."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", name, *words]
    if request is not None:
        command.append("-ign_eof")
    done = subprocess.run(
        command, input=request or b"", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT_S
    )
    return done.stdout.decode(errors="replace")


REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


# Versions and certificates


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "expected", "body"),
    [
        ("localhost", IDENTITY, b"local"),
        ("www.example.test", IDENTITY, b"local"),
        ("second.test", SECOND, b"second"),
        ("SECOND.test", SECOND, b"second"),
        ("rsa.test", RSA, b"second"),
    ],
)
def test_each_route_has_its_certificate_and_its_upstream(
    rig: AcceptorRig, name: str, expected: Identity, body: bytes, version: ssl.TLSVersion
) -> None:
    answer = get(rig.port, name, client_context(version=version, trusted=expected.chain_pem))
    assert answer.body == body
    assert answer.version == version.name.replace("_", ".")
    leaf = x509.load_pem_x509_certificates(expected.chain_pem)[0]
    assert answer.certificate == leaf.public_bytes(Encoding.DER)


@needs_openssl
@pytest.mark.parametrize(("option", "version"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
def test_openssl_client(rig: AcceptorRig, option: str, version: str) -> None:
    printed = s_client(rig.port, "second.test", option, request=REQUEST)
    assert f"New, {version}" in printed
    assert "subject=CN = second.test" in printed
    assert "200 OK" in printed and printed.rstrip().splitlines()
    assert "second" in printed.split("\r\n\r\n")[-1]


@needs_curl
@pytest.mark.parametrize("options", [["--tls-max", "1.2"], ["--tlsv1.3"]])
def test_curl(rig: AcceptorRig, options: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    trusted = tmp_path_factory.mktemp("curl") / "second.pem"
    trusted.write_bytes(SECOND.chain_pem)
    command = [
        "curl",
        "-sS",
        "--noproxy",
        "*",
        "--max-time",
        str(LIMIT_S),
        "--cacert",
        str(trusted),
        *options,
    ]
    where = ["--resolve", f"second.test:{rig.port}:127.0.0.1", f"https://second.test:{rig.port}/"]
    done = subprocess.run([*command, *where], capture_output=True, timeout=LIMIT_S * 2)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"second", b"")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(rig: AcceptorRig, version: ssl.TLSVersion) -> None:
    before = rig.count(Reason.HANDSHAKE_FAILED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = client_context()
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    with connect(rig.port) as sock, pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        context.wrap_socket(sock, server_hostname="localhost")
    wait_until(lambda: rig.count(Reason.HANDSHAKE_FAILED) == before + 1, "it is counted")


def test_ciphers_without_forward_secrecy_are_refused(rig: AcceptorRig) -> None:
    context = client_context(version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("AES128-GCM-SHA256:AES256-SHA")
    with connect(rig.port) as sock, pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        context.wrap_socket(sock, server_hostname="rsa.test")


@pytest.mark.parametrize("version", VERSIONS)
def test_client_authority_that_is_an_intermediate_only(rig: AcceptorRig, version: ssl.TLSVersion) -> None:
    """It is what the user said to accept: its leaves are, those of the root above it are not."""
    leaf = make_certificate(["alice"], authority=INTERMEDIATE, client=True)
    other = make_certificate(["bob"], authority=ROOT, client=True)
    answer = get(rig.port, "intermediate.test", client_context(version=version, certificate=leaf))
    assert answer.body == b"intermediate"
    with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
        get(rig.port, "intermediate.test", client_context(version=version, certificate=other))


# ALPN


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "offered", "chosen"),
    [
        ("h2.test", ("h2", "http/1.1"), "h2"),
        ("h2.test", ("http/1.1", "h2"), "h2"),
        ("h2.test", ("spdy/3", "http/1.1"), "http/1.1"),
        ("h2.test", ("http/1.1",), "http/1.1"),
        ("h2.test", ("spdy/3", "http/1.0"), None),
        ("h2.test", (), None),
        ("localhost", ("h2", "http/1.1"), "http/1.1"),
        ("localhost", ("http/1.1",), "http/1.1"),
        ("localhost", ("h2",), None),
        ("localhost", ("postgresql",), None),
        ("localhost", (), None),
    ],
)
def test_alpn(
    rig: AcceptorRig, name: str, offered: tuple[str, ...], chosen: str | None, version: ssl.TLSVersion
) -> None:
    """A client that shares no protocol gets none, and is served."""
    answer = get(rig.port, name, client_context(version=version, alpn=offered))
    assert (answer.alpn, answer.body) == (chosen, b"local")


@needs_openssl
def test_alpn_by_openssl(rig: AcceptorRig) -> None:
    printed = s_client(rig.port, "h2.test", "-alpn", "http/1.1,h2", request=REQUEST)
    assert "ALPN protocol: h2" in printed


# What a client may try within a connection


class Conversation:
    """An ``openssl s_client`` that is typed at, and whose output waits until it is read."""

    def __init__(self, port: int, *words: str) -> None:
        # Its output goes to a socket, not a pipe: poll() tells it exactly when it would block, so that it never does.
        self.output, other = socket.socketpair()
        self.output.settimeout(LIMIT_S)
        self._errors, errors = os.pipe()
        os.set_blocking(self._errors, False)
        self._said = b""
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=other, stderr=errors)
        other.close()
        os.close(errors)

    def type(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def wait_said(self, text: bytes, times: int = 1) -> None:
        """Wait until it has printed `text` on its error output so often."""

        def said() -> bool:
            try:
                self._said += os.read(self._errors, 65536)
            except BlockingIOError:
                pass
            return self._said.count(text) >= times

        wait_until(said, f"{text!r}, not {self._said!r}", LIMIT_S)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.kill()
        self.process.wait(LIMIT_S)
        self.process.stdin.close()
        self.output.close()
        os.close(self._errors)


@needs_openssl
def test_key_update_while_the_other_direction_is_blocked_loses_nothing(upstream: UpstreamHost) -> None:
    """The acceptor must answer a key update, and cannot: its socket to the client is full."""
    routes = snapshot(route("localhost", UdsUpstream(path=upstream.path)))
    with Stage() as stage, running(stage, routes) as (rig, process):
        client = Conversation(rig.port, "-tls1_3")
        try:
            server = upstream.accept()
            begin, block = b"the payload begins here", os.urandom(1 << 16)
            server.send(begin)
            sent = 0
            server.sock.setblocking(False)
            still_since = time.monotonic()
            while time.monotonic() - still_since < 0.2:  # full: nothing more goes in
                try:
                    sent += server.sock.send(block[sent % len(block) :])
                    still_since = time.monotonic()
                except BlockingIOError:
                    time.sleep(0.005)
            server.sock.setblocking(True)
            # One only: a second request for an update ends the connection, since OpenSSL will not queue two answers.
            client.type(b"K\n")
            client.wait_said(b"KEYUPDATE")
            for number in range(1, 4):
                client.type(b"line %d\n" % number)
                assert receive_exactly(server, 7) == b"line %d\n" % number
            got = b""
            while begin not in got:
                got += client.output.recv(65536)
            received = bytearray(got.partition(begin)[2])
            while len(received) < sent:
                received += client.output.recv(1 << 20)
            assert bytes(received) == (block * (sent // len(block) + 1))[:sent]
            for number in range(2, 5):
                server.send(b"and more")
                assert client.output.recv(100) == b"and more"
                client.type(b"K\n")
                client.wait_said(b"KEYUPDATE", number)
                client.type(b"the end\n")
                assert receive_exactly(server, 8) == b"the end\n"
            assert rig.failures == {}
            server.sock.close()
        finally:
            client.close()
        assert complaints(process) == []


@needs_openssl
def test_renegotiation_is_refused(upstream: UpstreamHost) -> None:
    routes = snapshot(route("localhost", UdsUpstream(path=upstream.path)))
    with Stage() as stage, running(stage, routes) as (rig, process):
        client = Conversation(rig.port, "-tls1_2")
        try:
            server = upstream.accept()
            client.type(b"before\n")
            assert receive_exactly(server, 7) == b"before\n"
            client.type(b"R\n")
            client.wait_said(b"no renegotiation")
            assert client.process.wait(LIMIT_S) != 0
        finally:
            client.close()
        server.sock.close()
        wait_until(lambda: rig.active == 0, "it is over")
        assert rig.total(HANDSHAKES) == 1
        assert complaints(process) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_handshake_that_does_not_fit_the_socket_goes_on_when_the_client_reads(
    upstream: UpstreamHost, version: ssl.TLSVersion
) -> None:
    """The acceptor's flight, with a long chain in it, blocks: it waits for room, and only for that."""
    authority = make_authority("root")
    for number in range(30):
        authority = make_authority(f"level {number}", authority=authority)
    made = make_certificate(["localhost"], authority=authority)
    routes = snapshot(
        route("localhost", UdsUpstream(path=upstream.path)), identity=Identity(made.chain_pem, made.key_pem)
    )
    with Stage() as stage:
        rig = AcceptorRig(stage, routes)
        try:
            rig.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            process = rig.start()
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                sock.settimeout(LIMIT_S)
                sock.connect(("127.0.0.1", rig.port))
                client = SteppedClient("localhost", client_context(version=version))
                sock.sendall(client.hello())
                wait_until(lambda: select.select([sock], [], [], 0)[0], "its first bytes are there")
                before = cpu_seconds(process.pid)
                time.sleep(0.3)  # the time that is measured
                assert cpu_seconds(process.pid) - before < 0.1
                assert rig.total(HANDSHAKES) == 0
                client.finish(sock)
                server = upstream.accept()
                client.send(sock, b"hello")
                assert receive_exactly(server, 5) == b"hello"
                server.send(b"answer")
                assert client.receive(sock) == b"answer"
                server.sock.close()
                assert client.receive(sock) == b""
            wait_until(lambda: rig.active == 0, "it is over")
            assert rig.failures == {} and complaints(process) == []
        finally:
            rig.close()
