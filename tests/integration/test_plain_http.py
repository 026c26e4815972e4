"""A plain HTTP listener: redirects, challenges on their way to real services, and what clients and services do wrong.

Whatever ends badly is counted under its own reason and no other, and leaves no descriptor and no error in the log.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import h11
import msgspec
import pytest

from symphony.config.model import TcpUpstream, UdsUpstream
from symphony.http.front import MAX_HEAD
from symphony.observe.counters import ACCEPTED, BYTES_DOWN, BYTES_UP
from symphony.observe.reasons import Reason
from symphony.observe.record_totals import Totals, add_up
from symphony.relay.proxy_protocol import encode_v1
from symphony.tls.certificate_maker import make_certificate
from tests.support.acceptor import AcceptorRig, complaints, descriptors, route, running, snapshot, wait_until
from tests.support.actor_process import ActorProcess, Stage
from tests.support.peers import Background, PlainPeer, UpstreamHost, receive_all, receive_exactly, reset
from tests.support.ports import lasting_port
from tests.support.proxy_headers import addresses, receive_header
from tests.support.services import Service
from tests.support.site import ended_by_reset
from tests.support.sources import connect_from, is_turned_away
from tests.support.symphony_process import SymphonyProcess, run_symphony, running_symphony
from tests.support.tls_client import client_context, connect

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

CHALLENGE = "/.well-known/acme-challenge/token"
HANDSHAKE_MS = 500
IDLE_MS = 800


class Plain:
    """An acceptor with a plain HTTP listener; `upstream` is where ``stepped.test`` leads."""

    def __init__(self, rig: AcceptorRig, process: ActorProcess, upstream: UpstreamHost) -> None:
        self.rig = rig
        self.process = process
        self.upstream = upstream
        self.port = rig.port

    @contextmanager
    def ends_as(self, reason: Reason | None, times: int = 1) -> Iterator[None]:
        """The block makes `times` connections fail for `reason` (None: none fails), and leaves nothing open."""
        with connect(self.port) as neighbour:
            assert ask(neighbour, "neighbour.test").status == 301
            before = descriptors(self.process.pid)
            expected = dict(self.rig.failures)
            if reason is not None:
                expected[reason.value] = expected.get(reason.value, 0) + times
            yield
            wait_until(lambda: sum(self.rig.failures.values()) >= sum(expected.values()), "all have failed")
            wait_until(lambda: self.rig.active <= 1, "all are over")
            assert self.rig.failures == expected
            wait_until(lambda: descriptors(self.process.pid) <= before, "the descriptors are back")
        assert complaints(self.process) == []
        wait_until(lambda: self.rig.active == 0, "the neighbour is over")


class Response(NamedTuple):
    status: int
    fields: dict[bytes, bytes]
    body: bytes


@pytest.fixture(scope="module")
def plain() -> Iterator[Plain]:
    upstream = UpstreamHost("uds")
    with Service("one") as one, Service("two") as two, Service("rest") as rest, Stage() as stage:
        dead = TcpUpstream(host="127.0.0.1", port=lasting_port())
        routes = snapshot(
            route("one.test", one.upstream, policy=-1),
            route("*.two.test", two.upstream, terminate=False),
            route("both.test", dead, UdsUpstream(path="/nowhere"), one.upstream),
            route("dead.test", dead),
            route("missing.test", UdsUpstream(path="/nowhere")),
            route("limited.test", one.upstream, rate=0.001, burst=1.0),
            route("rest.test", rest.upstream),
            route("held.test", policy=-1, suspend_ms=1000),
            route("held-limited.test", policy=-1, suspend_ms=1000, rate=1.0, burst=1.0),
            route("stepped.test", UdsUpstream(path=upstream.path)),
            handshake_timeout_ms=HANDSHAKE_MS,
            idle_timeout_ms=IDLE_MS,
            mode="http",
            redirect_port=8443,
        )
        with running(stage, routes) as (rig, process):
            yield Plain(rig, process, upstream)
    upstream.close()


def head(host: str, target: str = "/", method: str = "GET", more: str = "") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()


def responses(data: bytes, methods: str = "G", ended: bool = True) -> list[Response]:
    """Parse `data` as the whole answers to requests, one per letter of `methods` (H for HEAD)."""
    found = []
    for letter in methods:
        client = h11.Connection(h11.CLIENT)
        client.send(
            h11.Request(method="HEAD" if letter == "H" else "GET", target="/", headers=[("Host", "x")])
        )
        client.send(h11.EndOfMessage())
        client.receive_data(data)
        if ended:
            client.receive_data(b"")
        response = client.next_event()
        assert isinstance(response, h11.Response), data
        body = b""
        while isinstance(event := client.next_event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage), data
        data = client.trailing_data[0]
        found.append(Response(response.status_code, dict(response.headers), body))
    assert data == b""
    return found


def read_one(sock: socket.socket) -> Response:
    """Read one answer; more may follow on the connection."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    status, fields, body = 0, {}, b""
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(sock.recv(65536))
        elif isinstance(event, h11.Response):
            status, fields = event.status_code, dict(event.headers)
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            assert isinstance(event, h11.EndOfMessage), event
            assert client.trailing_data[0] == b""
            return Response(status, fields, body)


def ask(sock: socket.socket, host: str, target: str = "/") -> Response:
    sock.sendall(head(host, target))
    return read_one(sock)


def talk(port: int, data: bytes) -> bytes:
    """Send `data` and return everything that comes up to the end of the stream."""
    with connect(port) as sock:
        sock.sendall(data)
        return receive_all(PlainPeer(sock))


def curl(*arguments: str) -> str:
    command = ["curl", "-sS", "--max-time", "15", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout


# Redirects


@needs_curl
@pytest.mark.parametrize(
    ("arguments", "status"),
    [([], 301), (["-I"], 301), (["-d", "a=b"], 308), (["-X", "DELETE"], 308), (["-T", "/etc/hosts"], 308)],
)
def test_curl_is_redirected(plain: Plain, arguments: list[str], status: int) -> None:
    url = f"http://shop.test:{plain.port}/a/b?c=d"
    told = [
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{redirect_url}",
        "--resolve",
        f"shop.test:{plain.port}:127.0.0.1",
    ]
    with plain.ends_as(None):
        assert curl(*arguments, *told, url) == f"{status} https://shop.test:8443/a/b?c=d"


@needs_curl
def test_a_long_upload_is_redirected_without_a_reset(plain: Plain) -> None:
    """curl sends on while the answer comes: closing then would reset the connection, and destroy the answer."""
    body = os.path.join(os.path.dirname(plain.process.log_path), "body")
    with open(body, "wb") as file:
        file.write(bytes(600_000))
    with plain.ends_as(None):
        for expect in ("Expect:", "Expect: 100-continue"):
            told = ["-o", "/dev/null", "-w", "%{http_code}", "-H", expect, "--data-binary", f"@{body}"]
            assert curl(*told, f"http://127.0.0.1:{plain.port}/") == "308"


def test_an_upload_without_end_is_not_read_without_end(plain: Plain) -> None:
    block = bytes(65536)
    with plain.ends_as(None), connect(plain.port) as sock:
        sock.sendall(head("a.test", method="POST", more="Transfer-Encoding: chunked\r\n"))
        before = plain.rig.total(BYTES_UP)
        with pytest.raises(ConnectionError):
            while True:
                sock.sendall(b"10000\r\n" + block + b"\r\n")
        wait_until(lambda: plain.rig.active <= 1, "the connection is over")
        assert plain.rig.total(BYTES_UP) - before < 4 << 20


def test_keep_alive(plain: Plain) -> None:
    with plain.ends_as(None), connect(plain.port) as sock:
        for at in range(20):
            answer = ask(sock, "a.test", f"/{at}")
            assert answer.fields[b"location"] == b"https://a.test:8443/%d" % at
            assert b"connection" not in answer.fields


@pytest.mark.parametrize("step", [1, 3, 10_000])
def test_pipelining(plain: Plain, step: int) -> None:
    kinds = "GHGGHG"
    data = b"".join(
        head("a.test", f"/{at}", "HEAD" if kind == "H" else "GET") for at, kind in enumerate(kinds)
    ) + head("a.test", "/last", more="Connection: close\r\n")
    with plain.ends_as(None), connect(plain.port) as sock:
        for at in range(0, len(data), step):
            sock.sendall(data[at : at + step])
        answers = responses(receive_all(PlainPeer(sock)), kinds + "G")
    paths = [answer.fields[b"location"].rpartition(b"/")[2] for answer in answers]
    assert paths == [b"0", b"1", b"2", b"3", b"4", b"5", b"last"]


def test_a_client_that_pipelines_and_does_not_read_is_not_read_on(plain: Plain) -> None:
    """Its answers wait in its own socket and ours, not in the acceptor's memory; it gets all of them in the end."""
    data = head("a.test", "/" + "x" * 1500) * 900
    before = plain.rig.total(BYTES_DOWN)
    with plain.ends_as(None), socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", plain.port))
        sending = Background(lambda: sock.sendall(data))
        taken = b""
        while len(taken) < 100_000:
            taken += sock.recv(65536)
        assert plain.rig.total(BYTES_DOWN) - before < len(data)
        while taken.count(b"\r\n\r\n") < 900:
            taken += sock.recv(65536)
        sending.result()
        answers = responses(taken, "G" * 900, ended=False)
    assert {answer.status for answer in answers} == {301}


def test_a_client_that_never_reads(plain: Plain) -> None:
    with plain.ends_as(Reason.IDLE_TIMEOUT), socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", plain.port))
        with pytest.raises(ConnectionError):
            while True:
                sock.sendall(head("a.test", "/" + "x" * 12000) * 10)


# What clients do wrong


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, Reason.HTTP_NO_HOST),
        (b"GET / HTTP/1.0\r\n\r\n", 400, Reason.HTTP_NO_HOST),
        (head("a.test\r\nHost: b.test"), 400, Reason.HTTP_MALFORMED),
        (head("a@b"), 400, Reason.HTTP_BAD_HOST),
        (head("a.test", "http://a@b/"), 400, Reason.HTTP_BAD_HOST),
        (b"NONSENSE\r\n\r\n", 400, Reason.HTTP_MALFORMED),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400, Reason.HTTP_MALFORMED),
        (head("a.test", more="Content-Length: 5\r\nContent-Length: 6\r\n"), 400, Reason.HTTP_MALFORMED),
        (head("a.test", more="X: " + "y" * MAX_HEAD * 4 + "\r\n"), 431, Reason.HTTP_HEAD_TOO_LONG),
        (b"GET /" + b"x" * MAX_HEAD * 4, 431, Reason.HTTP_HEAD_TOO_LONG),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(30), 400, Reason.HTTP_VERSION),
        (b"GET / HTTP/3.0\r\nHost: a.test\r\n\r\n", 505, Reason.HTTP_VERSION),
        (head("stepped.test", CHALLENGE, "POST"), 405, Reason.CHALLENGE_REFUSED),
        (
            head("stepped.test", CHALLENGE, more="Content-Length: 2\r\n") + b"xy",
            413,
            Reason.CHALLENGE_REFUSED,
        ),
        (head("nobody.test", CHALLENGE), 404, Reason.UNKNOWN_HOST),
        (head("127.0.0.1", CHALLENGE), 404, Reason.UNKNOWN_HOST),
        (head("a.b.two.test", CHALLENGE), 404, Reason.UNKNOWN_HOST),
        (head("held.test", CHALLENGE), 404, Reason.UNKNOWN_HOST),
        (head("held-limited.test", CHALLENGE), 404, Reason.UNKNOWN_HOST),
    ],
)
@pytest.mark.parametrize("step", [1 << 20, 1000])
def test_bad_requests(plain: Plain, data: bytes, status: int, reason: Reason, step: int) -> None:
    with plain.ends_as(reason, 2):
        for _ in range(2):
            with connect(plain.port) as sock:
                for at in range(0, len(data), step):
                    with suppress(ConnectionError):  # the answer may come before all is sent
                        sock.sendall(data[at : at + step])
                answer = responses(receive_all(PlainPeer(sock)))[0]
            assert answer.status == status
            assert answer.body.startswith(b"%d " % status)
            assert answer.fields[b"connection"] == b"close"


def test_a_tls_client(plain: Plain) -> None:
    with plain.ends_as(Reason.TLS_ON_PLAIN_PORT), connect(plain.port) as sock, pytest.raises(ssl.SSLError):
        client_context().wrap_socket(sock, server_hostname="a.test")


def test_slow_senders(plain: Plain) -> None:
    """A byte now and then keeps nobody from being timed out: on the first request, nor on a later one."""
    with plain.ends_as(Reason.HTTP_TIMEOUT, 2):
        for asked_before in (False, True):
            with connect(plain.port) as sock:
                if asked_before:
                    ask(sock, "a.test")
                sock.setblocking(False)
                began = time.monotonic()
                received = b""
                for byte in head("a.test") * 20:
                    with suppress(BlockingIOError):
                        received = sock.recv(65536)
                    if received:
                        break
                    sock.send(bytes([byte]))
                    time.sleep(0.02)  # this is what makes it a slow sender
                assert HANDSHAKE_MS / 1000 <= time.monotonic() - began < 5
            assert responses(received, ended=False)[0].status == 408


def test_a_client_that_says_nothing(plain: Plain) -> None:
    with plain.ends_as(Reason.CLIENT_SILENT), connect(plain.port) as sock:
        assert ended_by_reset(sock)


def test_clients_that_leave(plain: Plain) -> None:
    with plain.ends_as(Reason.CLIENT_LEFT, 3):
        for _ in range(3):
            connect(plain.port).close()
    with plain.ends_as(Reason.HTTP_ABANDONED, 3):
        for _ in range(3):
            with connect(plain.port) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\n")
                sock.shutdown(socket.SHUT_WR)
                assert responses(receive_all(PlainPeer(sock)))[0].status == 400
    with plain.ends_as(Reason.CLIENT_RESET):
        sock = connect(plain.port)
        assert ask(sock, "a.test").status == 301
        reset(sock)


def test_a_connection_that_rests_is_closed_in_order(plain: Plain) -> None:
    with plain.ends_as(None), connect(plain.port) as sock:
        ask(sock, "a.test")
        began = time.monotonic()
        assert sock.recv(1) == b""
        assert time.monotonic() - began >= IDLE_MS / 1000 / 2


# Challenges


@pytest.mark.parametrize(
    ("host", "name"),
    [("one.test", b"one"), ("One.Test.:80", b"one"), ("x.two.test", b"two"), ("both.test", b"one")],
)
def test_a_challenge_reaches_the_route_of_its_host(plain: Plain, host: str, name: bytes) -> None:
    with plain.ends_as(None):
        for data in (head(host, CHALLENGE), head("other.test", f"http://{host}{CHALLENGE}")):
            answer = responses(talk(plain.port, data))[0]
            assert (answer.status, answer.body) == (200, name)


@needs_curl
def test_curl_answers_a_challenge(plain: Plain) -> None:
    resolve = ["--resolve", f"one.test:{plain.port}:127.0.0.1"]
    with plain.ends_as(None):
        assert curl(*resolve, f"http://one.test:{plain.port}{CHALLENGE}") == "one"


def test_a_default_route_takes_challenges_for_every_host() -> None:
    with Service("rest") as rest, Stage() as stage:
        routes = snapshot(route("", rest.upstream), mode="http")
        with running(stage, routes) as (rig, _):
            for host in ("a.test", "127.0.0.1", "[::1]:80"):
                assert responses(talk(rig.port, head(host, CHALLENGE)))[0].body == b"rest"


def test_what_the_upstream_is_sent_and_what_the_client_gets(plain: Plain) -> None:
    odd = b"HTTP/1.1 200 Fine\r\nx-ODD:   1\r\nContent-Length: 3\r\n\r\nabc"
    with plain.ends_as(None), connect(plain.port) as sock:
        smuggled = head("stepped.test", "/admin")
        sock.sendall(head("a.test") + head("stepped.test", CHALLENGE, more="Accept: x\r\n") + smuggled)
        assert read_one(sock).status == 301
        server = plain.upstream.accept()
        request = server.receive()
        assert request == (
            b"GET /.well-known/acme-challenge/token HTTP/1.1\r\n"
            b"Host: stepped.test\r\nAccept: x\r\nConnection: close\r\n\r\n"
        )
        server.send(odd + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert receive_all(PlainPeer(sock)) == odd
        assert server.receive() == b""  # closed, though the upstream never did
        server.sock.close()


def test_a_challenge_and_its_answer_in_pieces(plain: Plain) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    with plain.ends_as(None), connect(plain.port) as sock:
        for byte in head("stepped.test", CHALLENGE):
            sock.send(bytes([byte]))
        server = plain.upstream.accept()
        server.receive()
        for byte in answer:
            server.send(bytes([byte]))
        assert receive_all(PlainPeer(sock)) == answer
        server.sock.close()


def test_an_answer_that_ends_with_the_connection_to_a_slow_reader(plain: Plain) -> None:
    body = random.Random(1).randbytes(8 << 20)
    with plain.ends_as(None), socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        sock.settimeout(20)
        sock.connect(("127.0.0.1", plain.port))
        sock.sendall(head("stepped.test", CHALLENGE))
        server = plain.upstream.accept()
        server.receive()
        sending = Background(lambda: (server.send(b"HTTP/1.0 200 OK\r\n\r\n" + body), server.sock.close()))
        wait_until(lambda: not sending.done, "the sender is held up", 1)
        assert responses(receive_all(PlainPeer(sock)))[0].body == body
        sending.result()


@pytest.mark.parametrize(
    ("host", "status", "reason"),
    [("dead.test", 502, Reason.UPSTREAM_REFUSED), ("missing.test", 502, Reason.UPSTREAM_MISSING)],
)
def test_upstreams_that_are_down(plain: Plain, host: str, status: int, reason: Reason) -> None:
    with plain.ends_as(reason, 2):
        for _ in range(2):
            answer = responses(talk(plain.port, head(host, CHALLENGE)))[0]
            assert (answer.status, answer.body) == (status, b"502 Bad Gateway\n")


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\nContent-", b"\x15\x03\x01\x00\x02\x02\x46", b"220 mail ESMTP\r\n\r\n"],
)
def test_upstreams_that_do_not_speak_http(plain: Plain, answer: bytes) -> None:
    with plain.ends_as(Reason.UPSTREAM_BAD_ANSWER), connect(plain.port) as sock:
        sock.sendall(head("stepped.test", CHALLENGE))
        server = plain.upstream.accept()
        server.receive()
        server.send(answer)
        server.sock.close()
        assert responses(receive_all(PlainPeer(sock)))[0].status == 502


def test_an_answer_cut_short_ends_with_a_reset(plain: Plain) -> None:
    with plain.ends_as(Reason.UPSTREAM_BAD_ANSWER), connect(plain.port) as sock:
        sock.sendall(head("stepped.test", CHALLENGE))
        server = plain.upstream.accept()
        server.receive()
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
        assert sock.recv(65536).endswith(b"ab")
        server.sock.close()
        assert ended_by_reset(sock)


@pytest.mark.parametrize("begun", [False, True])
def test_an_upstream_that_says_nothing_more(plain: Plain, begun: bool) -> None:
    with plain.ends_as(Reason.IDLE_TIMEOUT), connect(plain.port) as sock:
        sock.sendall(head("stepped.test", CHALLENGE))
        server = plain.upstream.accept()
        server.receive()
        if begun:
            server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
            assert ended_by_reset(sock)
        else:
            assert responses(receive_all(PlainPeer(sock)))[0].status == 504
        assert server.receive() == b""
        server.sock.close()


def test_a_client_that_leaves_before_the_answer(plain: Plain) -> None:
    with plain.ends_as(Reason.CLIENT_RESET):
        sock = connect(plain.port)
        sock.sendall(head("stepped.test", CHALLENGE))
        server = plain.upstream.accept()
        server.receive()
        reset(sock)
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
        assert server.receive() == b""
        server.sock.close()


@pytest.mark.parametrize("kind", ["proxy_protocol", "proxy_protocol_v2"])
def test_an_upstream_is_told_of_the_client_first(kind: str) -> None:
    upstream = UpstreamHost("uds")
    entry = route("a.test", UdsUpstream(path=upstream.path))
    entry = msgspec.structs.replace(entry, source_address_header=kind)
    with Stage() as stage, running(stage, snapshot(entry, mode="http")) as (rig, process):
        with connect(rig.port) as sock:
            sock.sendall(head("a.test", CHALLENGE, more="X-Forwarded-For: 6.6.6.6\r\n"))
            server = upstream.accept()
            header = receive_header(server).header
            assert (header.source, header.destination) == addresses(sock)
            assert server.receive().startswith(
                b"GET /.well-known/acme-challenge/token HTTP/1.1\r\nHost: a.test\r\nConn"
            )
            server.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            assert responses(receive_all(PlainPeer(sock)))[0].status == 204
            server.sock.close()
        assert complaints(process) == []
    upstream.close()


def test_an_upstream_is_told_of_the_client_in_the_request() -> None:
    upstream = UpstreamHost("uds")
    entry = route("a.test", UdsUpstream(path=upstream.path))
    entry = msgspec.structs.replace(entry, source_address_header="x_forwarded_for")
    with Stage() as stage, running(stage, snapshot(entry, mode="http")) as (rig, process):
        with connect(rig.port) as sock:
            spoofed = "X-Forwarded-For: 6.6.6.6\r\nx_real_ip: 6.6.6.6\r\nX-JA3: x\r\nAccept: b\r\n"
            sock.sendall(head("a.test", CHALLENGE, more=spoofed))
            server = upstream.accept()
            fields = server.receive().split(b"\r\n")[1:-2]
            assert fields[0] == b"Host: a.test"
            assert b"X-Forwarded-For: 127.0.0.1" in fields
            assert b"X-Forwarded-Proto: http" in fields
            assert b"X-Real-IP: 127.0.0.1" in fields
            assert not any(b"6.6.6.6" in field or field.lower().startswith(b"x-ja3") for field in fields)
            server.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            assert responses(receive_all(PlainPeer(sock)))[0].status == 204
            server.sock.close()
        assert complaints(process) == []
    upstream.close()


def test_challenges_count_for_their_route_and_upstream() -> None:
    upstream = UpstreamHost("uds")
    target = UdsUpstream(path=upstream.path)
    entry = msgspec.structs.replace(route("a.test", target), number=0, upstream_numbers=(0,))
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with Stage() as stage, running(stage, snapshot(entry, mode="http")) as (rig, _):

        def totals() -> list[Totals]:
            page = rig.pages[0]
            return [add_up([page.routes], 0, "a.test"), add_up([page.upstreams], 0, target.label)]

        for whole in (True, False):
            with connect(rig.port) as sock:
                sock.sendall(head("a.test", CHALLENGE))
                server = upstream.accept()
                request = server.receive()
                assert [each.active for each in totals()] == [1, 1]
                server.send(answer if whole else answer[:-1])
                server.sock.close()
                ended_by_reset(sock)
        wait_until(lambda: rig.active == 0, "all are over")
        wait_until(lambda: [each.active for each in totals()] == [0, 0], "it is counted")
        for each in totals():
            assert each.connections == 2
            assert (each.bytes_up, each.bytes_down) == (2 * len(request), 2 * len(answer) - 1)
        assert totals()[0].failures == 1
    upstream.close()


def test_the_limit_of_a_route_holds_for_its_challenges(plain: Plain) -> None:
    statuses = [responses(talk(plain.port, head("limited.test", CHALLENGE)))[0].status for _ in range(3)]
    assert statuses == [200, 429, 429]
    wait_until(lambda: plain.rig.count(Reason.RATE_LIMITED) == 2, "both are counted")


# Limits, stopping, and many at once


def test_the_limit_of_connections() -> None:
    with Stage() as stage, running(stage, snapshot(mode="http", max_connections=2)) as (rig, process):
        with connect(rig.port) as one, connect(rig.port) as two:
            assert [ask(sock, "a.test").status for sock in (one, two)] == [301, 301]
            assert is_turned_away("127.0.0.1", rig.port)
        wait_until(lambda: rig.active == 0, "all are over")
        wait_until(lambda: rig.failures == {Reason.MAX_CONNECTIONS.value: 1}, "it is counted")
        assert complaints(process) == []


def test_clients_behind_a_load_balancer() -> None:
    """The header names the client, to the lists of networks and to the upstream; nobody else may send one."""
    upstream = UpstreamHost("uds")
    entry = route("a.test", UdsUpstream(path=upstream.path))
    entry = msgspec.structs.replace(entry, source_address_header="proxy_protocol")
    served = snapshot(entry, mode="http", blocklist=["203.0.113.0/24"], handshake_timeout_ms=1000)
    listener = msgspec.structs.replace(served.listeners[0], trusted_proxies=("127.0.0.1",))
    served = msgspec.structs.replace(served, listeners=(listener,))
    to = ("198.51.100.1", 80)
    good = encode_v1(("192.0.2.1", 1000), to)
    with Stage() as stage, running(stage, served) as (rig, process):
        assert responses(talk(rig.port, good + head("a.test", more="Connection: close\r\n")))[0].status == 301
        with connect(rig.port) as sock:
            for byte in good + head("a.test", CHALLENGE):
                sock.send(bytes([byte]))
            server = upstream.accept()
            assert receive_exactly(server, len(good) + 4) == good + b"GET "
            server.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            assert responses(receive_all(PlainPeer(sock)))[0].status == 204
            server.sock.close()
        with connect(rig.port) as sock:
            sock.sendall(encode_v1(("203.0.113.9", 1000), to) + head("a.test"))
            assert ended_by_reset(sock)
        with connect(rig.port) as sock:
            sock.sendall(head("a.test"))
            assert ended_by_reset(sock)
        with connect(rig.port) as sock:
            sock.sendall(good[:-1])
            assert ended_by_reset(sock)
        assert is_turned_away("127.0.0.2", rig.port)
        wait_until(lambda: rig.active == 0, "all are over")
        wait_until(lambda: sum(rig.failures.values()) == 4, "all are counted")
        assert rig.failures == {
            Reason.CIDR_BLOCKED.value: 1,
            Reason.MALFORMED_PROXY_HEADER.value: 1,
            Reason.PROXY_HEADER_TIMEOUT.value: 1,
            Reason.UNTRUSTED_PROXY.value: 1,
        }
        assert complaints(process) == []
    upstream.close()


def test_networks_that_are_refused() -> None:
    routes = snapshot(mode="http", allowlist=["127.0.7.0/24"], blocklist=["127.0.0.0/16"])
    with Stage() as stage, running(stage, routes) as (rig, process):
        with connect_from("127.0.7.1", rig.port) as allowed:
            assert ask(allowed, "a.test").status == 301
        assert is_turned_away("127.0.8.1", rig.port)
        wait_until(lambda: rig.active == 0, "all are over")
        wait_until(lambda: rig.failures == {Reason.CIDR_BLOCKED.value: 1}, "it is counted")
        assert complaints(process) == []


def test_a_stop_ends_what_rests_and_waits_for_what_works() -> None:
    upstream = UpstreamHost("uds")
    routes = snapshot(route("a.test", UdsUpstream(path=upstream.path)), mode="http")
    with Stage() as stage, running(stage, routes) as (rig, process):
        resting, working, begun = (connect(rig.port) for _ in range(3))
        ask(resting, "a.test")
        working.sendall(head("a.test", CHALLENGE))
        server = upstream.accept()
        server.receive()
        begun.sendall(head("b.test")[:-2])
        wait_until(lambda: rig.total(ACCEPTED) == 3, "all are accepted")
        process.ask_to_stop(20.0)
        assert resting.recv(1) == b""
        begun.sendall(b"\r\n")
        assert responses(receive_all(PlainPeer(begun)))[0].fields[b"connection"] == b"close"
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert responses(receive_all(PlainPeer(working)))[0].body == b"ok"
        for sock in (resting, working, begun, server.sock):
            sock.close()
        assert process.wait_exit(10) == 0
        assert rig.failures == {}
        assert complaints(process) == []
    upstream.close()


def test_many_abusers_at_once_leave_nothing_behind(plain: Plain) -> None:
    """Six hundred connections that end in every way, all at once, beside one in good order."""
    rng = random.Random(7)
    good = head("a.test") + head("rest.test", CHALLENGE)
    starts = [
        good,
        head("dead.test", CHALLENGE),
        head("@"),
        b"\x16\x03\x01",
        head("a.test", method="POST"),
        b"",
    ]
    with connect(plain.port) as neighbour:
        ask(neighbour, "a.test")
        before = descriptors(plain.process.pid)
        accepted = plain.rig.total(ACCEPTED)
        socks = []
        for _ in range(600):
            sock = connect(plain.port)
            start = rng.choice(starts)
            sock.sendall(
                start[: rng.choice([0, 1, 20, len(start)])] + rng.randbytes(rng.choice([0, 0, 1, 900]))
            )
            ending = rng.randrange(4)
            if ending == 0:
                sock.close()
            elif ending == 1:
                reset(sock)
            else:
                if ending == 2:
                    with suppress(OSError):
                        sock.shutdown(socket.SHUT_WR)
                socks.append(sock)
        for sock in socks:
            ended_by_reset(sock)
            sock.close()
        wait_until(lambda: plain.rig.active <= 1, "all are over")
        assert plain.rig.total(ACCEPTED) - accepted == 600
        wait_until(lambda: descriptors(plain.process.pid) <= before, "the descriptors are back")
    assert complaints(plain.process) == []


# The whole tree


@needs_curl
def test_beside_tls_in_one_tree() -> None:
    """curl follows the redirect to the TLS listener; a reload moves where redirects lead."""
    made = make_certificate(["app.test"])
    config = """
        workers = 2
        access_log = {{}}
        [[listeners]]
        host = "127.0.0.1"
        port = 0
        default_cert = {{ cert_chain_file = "c.pem", private_key_file = "c.key" }}
        [[listeners]]
        host = "127.0.0.1"
        port = 0
        mode = "http"
        redirect_port = {redirect_port}
        [[routes]]
        sni = "app.test"
        upstreams = [{{ kind = "uds", path = "{path}" }}]
        """
    with Service("app") as app:
        files = {"c.pem": made.chain_pem, "c.key": made.key_pem}
        first = config.format(path=app.path, redirect_port=9)
        with running_symphony(first, files=files) as symphony:
            tls, plain = symphony.port(0), symphony.port(1)
            symphony.config_file.write_text(config.format(path=app.path, redirect_port=tls))
            checked = run_symphony("check", "-c", str(symphony.config_file))
            assert (checked.returncode, checked.stderr) == (0, ""), checked
            assert symphony.command("reload").returncode == 0
            resolve = [part for port in (tls, plain) for part in ("--resolve", f"app.test:{port}:127.0.0.1")]
            trust = ["--cacert", str(symphony.directory / "c.pem")]

            def redirect() -> str:
                return curl(
                    *resolve, "-o", "/dev/null", "-w", "%{redirect_url}", f"http://app.test:{plain}/x"
                )

            wait_until(
                lambda: all(redirect() == f"https://app.test:{tls}/x" for _ in range(8)), "it is applied"
            )
            for path in ("/x", CHALLENGE):
                assert curl(*resolve, *trust, "-L", f"http://app.test:{plain}{path}") == "app"
            status = symphony.wait_for(lambda status: status.listeners[1].active == 0)
            assert "no_certificate" not in status.connections.errors
            with connect(plain) as sock:
                sock.sendall(head("nobody.test", CHALLENGE))
                assert read_one(sock).status == 404
            wait_until(lambda: find_line(symphony, "nobody.test") is not None, "its line is written")
            refused, answered = find_line(symphony, "nobody.test"), find_line(symphony, "app.test")
            assert refused is not None and answered is not None
            assert (refused["reason"], answered["reason"]) == ("unknown_host", "")
            assert (answered["route"], answered["listener"]) == ("app.test", status.listeners[1].id)
            assert answered["bytes_up"] > 0 and answered["bytes_down"] > 0 and answered["duration_ms"] > 0
            assert symphony.logged("connection_failed") == []


def find_line(symphony: SymphonyProcess, host: str) -> dict[str, Any] | None:
    """The access log's line of a challenge for `host`."""
    found = [line for line in symphony.logged("connection") if line.get("host") == host]
    assert len(found) <= 1
    return found[0] if found else None
