"""Holding connections: the whole command at a small scale, and the holder against servers that fail it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support.ports import lasting_port
from tools.bench.hold_report import BEGIN, END, HoldReport
from tools.bench.holder import Holder, HolderJob

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 100


@pytest.mark.skipif(os.geteuid() != 0, reason="/proc/slabinfo is for root")
def test_a_small_run_measures_both_kinds_and_writes_its_part() -> None:
    directory = Path(tempfile.mkdtemp(prefix="sy", dir="/tmp"))
    try:
        document = directory / "scaling.md"
        document.write_text(f"prose\n{BEGIN}\n{END}\nmore prose\n")
        done = subprocess.run(
            [
                sys.executable, str(ROOT / "tools" / "bench"), "hold", "-n", "300", "--steps", "1",
                "--idle-seconds", "0.1", "--pairs", "0", "--json", str(directory / "figures.json"), "--doc",
                str(document),
            ],
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        report = msgspec.json.decode((directory / "figures.json").read_bytes(), type=HoldReport)
        assert [result.passthrough for result in report.results] == [False, True]
        for result in report.results:
            assert [level.held for level in result.levels] == [15, 300]
            assert result.checked == 3
            assert result.stopped == ""
            assert result.costs.descriptors == pytest.approx(2, abs=0.1)
        terminated, passthrough = (result.costs.user_bytes for result in report.results)
        assert terminated > passthrough
        text = document.read_text()
        assert text.startswith(f"prose\n{BEGIN}\n")
        assert text.endswith(f"{END}\nmore prose\n")
        assert "| connections held | 300 | 300 |" in text
    finally:
        shutil.rmtree(directory)


def test_a_document_without_a_place_for_figures_is_refused_before_the_run(tmp_path: Path) -> None:
    document = tmp_path / "scaling.md"
    document.write_text("prose\n")
    command = [sys.executable, "-m", "tools.bench", "hold", "-n", "100", "--doc", str(document)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "has no lines" in done.stderr
    assert document.read_text() == "prose\n"


Behaviour = Callable[[socket.socket, bytes], None]
Serve = Callable[[Behaviour], int]
Make = Callable[..., Holder]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a plain TCP server: it reads once from every connection and then does as told."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []
    kept: list[socket.socket] = []

    def start(behaviour: Behaviour) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def run() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                sock.settimeout(20)
                kept.append(sock)
                behaviour(sock, sock.recv(65536))

        thread = threading.Thread(target=run)
        thread.start()
        threads.append(thread)
        return int(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(20)
    for sock in kept:
        sock.close()


@pytest.fixture
def holder_of() -> Iterator[Make]:
    made: list[Holder] = []

    def make(port: int, keep_every: int = 1) -> Holder:
        job = HolderJob(port=port, sources=["127.1.0.1"], passthrough=True, keep_every=keep_every)
        made.append(Holder(job))
        return made[-1]

    yield make
    for holder in made:
        holder.close()


def test_connections_come_from_the_address_that_was_asked(serve: Serve, holder_of: Make) -> None:
    peers = []

    def note(sock: socket.socket, data: bytes) -> None:
        peers.append(sock.getpeername()[0])
        sock.sendall(data)

    answer = holder_of(serve(note)).hold(5, 20)
    assert (answer.held, answer.errors) == (5, [])
    assert peers == ["127.1.0.1"] * 5


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (lambda sock, data: sock.sendall(b"x" + data[1:]), "the answer is not what was sent"),
        (lambda sock, data: sock.close(), "closed before the answer"),
    ],
    ids=["another answer", "closed"],
)
def test_a_server_that_fails_is_an_error(
    serve: Serve, holder_of: Make, behaviour: Behaviour, error: str
) -> None:
    assert holder_of(serve(behaviour)).hold(1, 20).errors == [error]


@pytest.mark.parametrize("after", ["closed", "talking"])
def test_a_connection_that_does_not_stay_idle_is_an_error(serve: Serve, holder_of: Make, after: str) -> None:
    opened: list[socket.socket] = []

    def keep(sock: socket.socket, data: bytes) -> None:
        sock.sendall(data)
        opened.append(sock)

    holder = holder_of(serve(keep), keep_every=3)  # so the second is not asked again
    assert holder.hold(3, 20).held == 3
    if after == "closed":
        opened[1].shutdown(socket.SHUT_RDWR)
    else:
        opened[1].sendall(b"hello")
    expected = "closed while it was idle" if after == "closed" else "something came unasked"
    assert expected in holder.check(0.3).errors


def test_connections_that_do_not_answer_again_are_an_error(serve: Serve, holder_of: Make) -> None:
    holder = holder_of(serve(lambda sock, data: sock.sendall(data)))
    assert holder.hold(2, 20).held == 2
    assert holder.check(0.2).errors == ["0 of 2 connections have answered again"]


def test_too_little_time_is_no_error_but_told_by_the_number(serve: Serve, holder_of: Make) -> None:
    answer = holder_of(serve(lambda sock, data: None)).hold(3, 0.1)
    assert (answer.held, answer.errors) == (0, [])


def test_nobody_on_the_port_is_an_error(holder_of: Make) -> None:
    assert "Connection refused" in holder_of(lasting_port()).hold(1, 20).errors[0]
