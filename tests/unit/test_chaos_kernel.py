"""What the chaos tool asks the kernel about processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tools.chaos.kernel import (
    ProcessGone,
    clients_of,
    descriptors,
    freeze,
    no_more_descriptors,
    state,
    tenth_of_a_cpu,
)


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """A process that opens a file for each line it is sent, and says whether it could."""
    program = "import os, sys\nfor line in sys.stdin:\n try: os.open('/', 0); print('yes', flush=True)\n"
    program += " except OSError: print('no', flush=True)\n"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def can_open(process: subprocess.Popen[str]) -> bool:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline() == "yes\n"


def test_clients_of_a_process_are_those_it_has_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(6)]
        accepted = [listening.accept()[0] for _ in range(4)]
        held = {sock.getpeername() for sock in accepted}
        assert len(held) == 4
        assert clients_of(os.getpid(), [port]) == held
        assert clients_of(os.getpid(), [port + 1 if port < 65535 else 1]) == frozenset()
        assert clients_of(os.getppid(), [port]) == frozenset()
        # A client that has ended its direction is still held, one that the server has closed is not.
        accepted[0].close()
        accepted[1].shutdown(socket.SHUT_WR)
        assert clients_of(os.getpid(), [port]) == held - {clients[0].getsockname()}
        for sock in (*clients, *accepted):
            sock.close()


def test_a_frozen_process_stands_still(other: subprocess.Popen[str]) -> None:
    freeze(other.pid)
    assert state(other.pid) == "T"
    os.kill(other.pid, signal.SIGCONT)
    assert can_open(other)
    other.kill()
    other.wait()
    with pytest.raises(ProcessGone):
        freeze(other.pid)
    with pytest.raises(ProcessGone):
        state(other.pid)


@pytest.mark.parametrize("spare", [0, 2])
def test_descriptors_run_out_for_a_while(other: subprocess.Popen[str], spare: int) -> None:
    assert can_open(other)
    sockets, others = descriptors(other.pid)
    with no_more_descriptors(other.pid, spare):
        assert [can_open(other) for _ in range(spare + 2)] == [True] * spare + [False, False]
    assert can_open(other)
    assert descriptors(other.pid) == (sockets, others + spare + 1)


def test_a_starved_process_goes_on(other: subprocess.Popen[str]) -> None:
    stops = 0
    with tenth_of_a_cpu(other.pid):
        deadline = time.monotonic() + 5
        while stops < 3 and time.monotonic() < deadline:
            stops += state(other.pid) == "T"
            assert can_open(other)
    assert stops == 3
    assert can_open(other)
    assert state(other.pid) != "T"
