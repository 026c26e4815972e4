"""The benchmark's load process against a server that answers rightly, and against ones that do not.

A benchmark that does not see a wrong answer would report how fast a proxy corrupts data.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.ports import lasting_port
from tools.bench import certs
from tools.bench.content import DOWN, MEBIBYTE, SMALL, UP, VERIFIED
from tools.bench.job import Job, SideJob
from tools.bench.pair import RunError, measure

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


def _right(head: bytes, body: bytes) -> bytes:
    """Answer as the backend does."""
    if b"/small " in head:
        return _HEAD % len(SMALL) + SMALL
    if b"/down " in head:
        return _HEAD % len(DOWN) + DOWN
    assert body == UP
    return _HEAD % len(VERIFIED) + VERIFIED


class _Server:
    """A TLS server with a thread per connection; `answer` makes the bytes that are sent, None closes."""

    def __init__(
        self, directory: Path, answer: Callable[[bytes, bytes], bytes | None], tickets: bool = True
    ) -> None:
        pair = certs.make(directory, "bench.test", "ecdsa")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair.chain, pair.key)
        if not tickets:
            self._context.num_tickets = 0
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._open: set[socket.socket] = set()
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            raw.settimeout(20)
            self._open.add(raw)
            thread = threading.Thread(target=self._serve, args=(raw,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        try:
            with self._context.wrap_socket(raw, server_side=True) as sock:
                self._open.add(sock)
                data = b""
                while True:
                    while b"\r\n\r\n" not in data:
                        more = sock.recv(65536)
                        if not more:
                            return
                        data += more
                    head, _, body = data.partition(b"\r\n\r\n")
                    while head.startswith(b"POST") and len(body) < MEBIBYTE:
                        body += sock.recv(65536)
                    answer = self._answer(head, body)
                    if answer is None:
                        return
                    sock.sendall(answer)
                    data = b""
        except OSError:
            return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._open):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join(20)


Serve = Callable[..., SideJob]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    servers: list[_Server] = []

    def start(
        answer: Callable[[bytes, bytes], bytes | None] = _right, *, name: str = "server", **more: bool
    ) -> SideJob:
        server = _Server(tmp_path, answer, **more)
        servers.append(server)
        return SideJob(name=name, port=server.port, pids=[os.getpid()])

    yield start
    for server in servers:
        server.close()


def _job(kind: str, *sides: SideJob, **more: object) -> Job:
    return Job(kind=kind, sides=list(sides), connections=3, warmup=4, limit_s=20, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("request_kind", ["small", "down", "up"])
def test_kept_connections_do_exactly_the_operations_asked(serve: Serve, request_kind: str) -> None:
    sides = [serve(name="a"), serve(name="b")]
    result = measure(_job("closed", *sides, request=request_kind, operations=20), None)
    assert [side.name for side in result.sides] == ["a", "b"]
    for side in result.sides:
        assert [level.operations for level in side.levels] == [20]
        assert side.levels[0].cpu_ns > 0
        assert side.negotiated == "TLSv1.3 TLS_AES_256_GCM_SHA384"


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("resume", [False, True])
def test_fresh_connections(serve: Serve, version: str, resume: bool) -> None:
    sides = [serve(name="a"), serve(name="b")]
    result = measure(_job("fresh", *sides, version=version, resume=resume, operations=15), None)
    assert [side.levels[0].operations for side in result.sides] == [15, 15]
    assert result.sides[0].negotiated.startswith(f"TLSv{version} ")


def test_idle_connections_are_held_and_answered_one_by_one(serve: Serve) -> None:
    side = serve()
    result = measure(_job("hold", side, idle=[5, 12]), None)
    assert [level.idle for level in result.sides[0].levels] == [5, 12]
    assert all(level.private_bytes > 0 for level in result.sides[0].levels)
    result = measure(_job("closed", side, idle=[0, 7], operations=20), None)
    assert [level.operations for level in result.sides[0].levels] == [20, 20]


def test_a_fixed_rate_takes_its_time(serve: Serve) -> None:
    side = measure(_job("rate", serve(), rate=100.0, operations=40), None).sides[0]
    assert side.levels[0].seconds >= 0.38
    assert 0 < side.latency_us["p50"] <= side.latency_us["p99"] <= side.latency_us["max"]


def _flipped(head: bytes, body: bytes) -> bytes:
    answer = bytearray(_right(head, body))
    answer[-5] ^= 1
    return bytes(answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (_flipped, "not what the backend has sent"),
        (lambda head, body: _right(head, body) + b"!", "not what the backend has sent|without a request"),
        (lambda head, body: _right(head, body)[:-1], "took too long"),
        (lambda head, body: b"HTTP/1.1 500 Oops\r\n\r\n", "500 Oops"),
        (lambda head, body: None, "closed after 0 bytes"),
    ],
    ids=["one bit", "too long", "too short", "error", "closed"],
)
@pytest.mark.parametrize("kind", ["closed", "fresh"])
def test_one_wrong_server_makes_the_run_an_error(
    serve: Serve, kind: str, answer: Callable[[bytes, bytes], bytes | None], message: str
) -> None:
    sides = [serve(name="good"), serve(answer, name="bad")]
    job = Job(kind=kind, sides=sides, request="down", connections=2, operations=5, limit_s=3)
    with pytest.raises(RunError, match=message):
        measure(job, None)


def test_a_server_that_does_not_resume_is_an_error(serve: Serve) -> None:
    with pytest.raises(RunError, match="not resumed"):
        measure(_job("fresh", serve(tickets=False), resume=True, operations=5), None)


def test_nobody_on_the_port_is_an_error(serve: Serve) -> None:
    side = SideJob(name="nobody", port=lasting_port(), pids=[os.getpid()])
    with pytest.raises(RunError, match="ECONNREFUSED"):
        measure(_job("closed", side, operations=1), None)
