"""``symphony top`` under a real terminal: drawn at several sizes, through a kill and a restart, and ended cleanly."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pyte
import pytest

from symphony.tls.certificate_maker import make_certificate
from tests.support.symphony_process import SymphonyProcess, actor, running_symphony
from tests.support.tls_client import SteppedClient, client_context, get

LIMIT_S = 30.0
CONFIG = """
workers = 2
[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = { cert_chain_file = "cert.pem", private_key_file = "key.pem" }
[[routes]]
sni = ""
upstreams = [
    { kind = "tcp", host = "127.0.0.1", port = 1, max_fails = 1, fail_timeout_ms = 600000 },
    { kind = "uds", path = "/nowhere/at-all.sock" },
]
[[routes]]
sni = "other.example"
upstreams = [{ kind = "uds", path = "/nowhere/at-all.sock" }]
[[routes]]
sni = "held.example"
suspended = true
[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = { cert_chain_file = "cert.pem", private_key_file = "key.pem" }
[listeners.protection]
rate_limit = { connections_per_second = 1, burst = 1 }
penalty_box = { duration_ms = 600000 }
"""


class Terminal:
    """A terminal with a program in it."""

    def __init__(
        self, command: list[str], width: int, height: int, more: dict[str, str] | None = None
    ) -> None:
        """`more` is added to the environment."""
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self.screen)
        self._main, program = pty.openpty()
        self.resize(width, height)
        self.before = termios.tcgetattr(program)
        environment = {
            **os.environ,
            **(more or {}),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "PYTHONUTF8": "1",
        }
        for size in ("COLUMNS", "LINES"):  # they would stand above what the terminal says
            environment.pop(size, None)
        self.process = subprocess.Popen(
            command,
            stdin=program,
            stdout=program,
            stderr=program,
            start_new_session=True,
            env=environment,
        )
        self._program = program

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._main, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.screen.resize(height, width)

    def press(self, keys: bytes) -> None:
        os.write(self._main, keys)

    def wait(self, *texts: str, without: str = "\0") -> None:
        """Until all of `texts` stand on the screen."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            shown = "\n".join(self.screen.display)
            if all(text in shown for text in texts) and without not in shown:
                return
            assert time.monotonic() < deadline, shown
            if select.select([self._main], [], [], 0.2)[0]:
                self._stream.feed(os.read(self._main, 65536))

    def wait_end(self) -> int:
        deadline = time.monotonic() + LIMIT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            if select.select([self._main], [], [], 0.1)[0]:
                self._stream.feed(os.read(self._main, 65536))
        return self.process.returncode

    def mode(self) -> list[object]:
        return termios.tcgetattr(self._program)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(LIMIT_S)
        os.close(self._main)
        os.close(self._program)


@contextmanager
def top(
    symphony: SymphonyProcess, width: int, height: int, more: dict[str, str] | None = None
) -> Iterator[Terminal]:
    command = [sys.executable, "-m", "symphony", "top", "--interval", "0.2"]
    terminal = Terminal([*command, "--runtime-dir", str(symphony.runtime_dir)], width, height, more)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.fixture(scope="module")
def symphony() -> Iterator[SymphonyProcess]:
    made = make_certificate(["localhost"])
    with running_symphony(CONFIG, files={"cert.pem": made.chain_pem, "key.pem": made.key_pem}) as running:
        yield running


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (60, 14)])
def test_a_frame_and_an_end(symphony: SymphonyProcess, width: int, height: int) -> None:
    with top(symphony, width, height) as terminal:
        terminal.wait("symphony 0", "supervisor", "actor", "? help")
        if height >= 24:
            terminal.wait("acceptor-1", symphony.address(), "running")
        terminal.press(b"q")
        assert terminal.wait_end() == 0
        assert terminal.mode() == terminal.before


def row(terminal: Terminal, beginning: str) -> list[str]:
    """The words of the line that begins so."""
    return next(line.split() for line in terminal.screen.display if line.startswith(beginning))


def test_routes_upstreams_refused_and_held(symphony: SymphonyProcess) -> None:
    context = client_context()
    with suppress(OSError):
        get(symphony.port(), "localhost", context)
    for _ in range(4):
        with suppress(OSError):
            get(symphony.port(1), "localhost", context)
    hello = SteppedClient("held.example").hello()
    with (
        socket.create_connection(("127.0.0.1", symphony.port()), timeout=LIMIT_S) as sock,
        top(symphony, 120, 44) as terminal,
    ):
        sock.sendall(hello)
        terminal.wait("held.example", "penalty_boxed", "127.0.0.1 ", "asks for", "upstream_", " out ")
        assert row(terminal, "tcp://127.0.0.1:1")[1] == "out"
        assert row(terminal, "other.example")[1] == "1/1"
        assert row(terminal, "default")[1] == "1/2"
        terminal.press(b"b")
        terminal.wait("penalty_boxed", without="other.example")
        terminal.press(b"w")
        terminal.wait("held.example", "127.0.0.1", without="penalty_boxed")
        terminal.press(b"\x1b")
        terminal.wait("other.example")
        terminal.press(b"/other\r")
        terminal.wait("filter: other", without="default ")
        terminal.press(b"\r")
        terminal.wait("route other.example", "handshake, 99 % within", "unix:/nowhere/at-all.sock")
        terminal.press(b"q")
        assert terminal.wait_end() == 0


def test_without_colours(symphony: SymphonyProcess) -> None:
    with top(symphony, 80, 24, {"NO_COLOR": "1"}) as terminal:
        terminal.wait("supervisor", "> ")
        cells = [cell for line in terminal.screen.buffer.values() for cell in line.values()]
        assert {cell.fg for cell in cells} == {cell.bg for cell in cells} == {"default"}
        terminal.press(b"q")
        assert terminal.wait_end() == 0


def test_a_pause_holds_the_picture(symphony: SymphonyProcess) -> None:
    with top(symphony, 100, 40) as terminal:
        terminal.wait("acceptor-0", "running")
        terminal.press(b"p")
        terminal.wait("PAUSED")
        old = symphony.pid_of("acceptor-1")
        symphony.kill_child("acceptor-1")
        new = symphony.wait_for(lambda status: actor(status, "acceptor-1").pid not in (old, None))
        terminal.press(b"s")
        terminal.wait("PAUSED", "route by rate", f" {old} ")
        terminal.press(b"p")
        terminal.wait(f" {actor(new, 'acceptor-1').pid} ", without="PAUSED")
        terminal.press(b"q")
        assert terminal.wait_end() == 0


def test_a_kill_is_seen(symphony: SymphonyProcess) -> None:
    with top(symphony, 100, 40) as terminal:
        terminal.wait("acceptor-0", "running")
        old = symphony.pid_of("acceptor-0")
        symphony.kill_child("acceptor-0")
        new = symphony.wait_for(lambda status: actor(status, "acceptor-0").pid not in (old, None))
        terminal.wait(f" {actor(new, 'acceptor-0').pid} ", "acceptor-0 was started again", without=f" {old} ")
        terminal.press(b"e")
        terminal.wait("acceptor-0 was started again", without="route by")
        terminal.press(b"?")
        terminal.wait("quit", "this page")
        terminal.press(b"\x1b")
        terminal.wait("acceptor-0")
        terminal.resize(60, 20)
        os.kill(terminal.process.pid, signal.SIGWINCH)
        terminal.wait("supervisor", "? help")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait_end() == 0


def test_a_tree_that_is_started_again(symphony: SymphonyProcess) -> None:
    with top(symphony, 100, 30) as terminal:
        terminal.wait(f"pid {symphony.pid}")
        assert symphony.stop() == 0
        terminal.wait("waiting for it")
        symphony.start()
        terminal.wait(f"pid {symphony.pid}", "acceptor-1", without="waiting for it")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait_end() == 0


def test_once_and_json(symphony: SymphonyProcess) -> None:
    shown = symphony.command("top", "--once", "--interval", "0.1", "--samples", "5")
    assert "? help" not in shown.stdout and shown.stdout.rstrip("\n").count("\n") < 60
    assert shown.returncode == 0 and "acceptor-1" in shown.stdout and "\x1b" not in shown.stdout
    told = symphony.command("top", "--json")
    assert json.loads(told.stdout)["pid"] == symphony.pid
    refused = symphony.command("top")
    assert refused.returncode == 1 and "needs a terminal" in refused.stderr
