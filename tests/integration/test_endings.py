"""Ten thousand connections that end in every way there is leave nothing behind: no descriptor, and no memory."""

from __future__ import annotations

import random
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import psutil

from tests.support.acceptor import wait_until
from tests.support.calls import Target, ask, client_context
from tests.support.peers import reset
from tests.support.showcase import Showcase, running_showcase
from tests.support.tls_client import SteppedClient, connect

CONNECTIONS = 10_000
FIRST = 2_000
"""After so many, all memory that is kept for later has been taken."""

MOST_GROWTH = 3 << 20
AT_ONCE = 40

SHAKEN = {
    "handshake, and gone",
    "handshake, reset",
    "no client certificate",
    "in good order",
    "asked, and gone",
    "asked, reset",
    "half closed",
    "passed through",
    "passed through, reset",
}

DEAD = """
[[routes]]
sni = "dead.example.test"
terminate_tls = false
upstreams = [{ kind = "uds", path = "/nowhere/at-all.sock", max_fails = 0 }]
"""


class Clients:
    """Makes one connection of each kind. What outlives the call is closed some connections later."""

    def __init__(self, show: Showcase) -> None:
        self.port = show.symphony.port()
        self.rng = random.Random(11)
        self.open: list[socket.socket] = []
        self.exact, self.passed = show.expected["exact"].target, show.expected["passed"].target
        self.mutual = show.without_certificate
        targets = (self.exact, self.passed, self.mutual)
        self.contexts = {target: client_context(target) for target in targets}
        self.hello = SteppedClient(self.exact.name).hello()
        self.dead = SteppedClient("dead.example.test").hello()
        self.kinds: dict[str, Callable[[], None]] = {
            "silent": lambda: self.later(self.plain(b"")),
            "silent, reset": lambda: reset(self.plain(b"")),
            "no TLS": lambda: self.later(self.plain(self.rng.randbytes(300))),
            "cut hello": lambda: self.plain(self.cut_hello()).close(),
            "cut hello, reset": lambda: reset(self.plain(self.cut_hello())),
            "hello, and gone": lambda: self.plain(self.hello).close(),
            "hello, reset": lambda: reset(self.plain(self.hello)),
            "garbage after the hello": lambda: self.later(self.plain(self.hello + bytes(200))),
            "nobody there": lambda: self.later(self.plain(self.dead)),
            "handshake, and gone": lambda: self.shaken(self.exact).close(),
            "handshake, reset": lambda: reset(self.shaken(self.exact)),
            "no client certificate": self.unidentified,
            "in good order": self.in_good_order,
            "asked, and gone": lambda: self.asked(self.exact).close(),
            "asked, reset": lambda: reset(self.asked(self.exact)),
            "half closed": self.half_closed,
            "passed through": lambda: self.asked(self.passed).close(),
            "passed through, reset": lambda: reset(self.asked(self.passed)),
        }

    def later(self, sock: socket.socket) -> None:
        self.open.append(sock)
        if len(self.open) > AT_ONCE:
            self.open.pop(0).close()

    def plain(self, data: bytes) -> socket.socket:
        sock = connect(self.port)
        with suppress(OSError):
            sock.sendall(data)
        return sock

    def cut_hello(self) -> bytes:
        return self.hello[: self.rng.randrange(1, len(self.hello))]

    def shaken(self, target: Target) -> ssl.SSLSocket:
        return self.contexts[target].wrap_socket(connect(self.port), server_hostname=target.name)

    def asked(self, target: Target) -> ssl.SSLSocket:
        connection = self.shaken(target)
        assert ask(connection) == ("passed" if target is self.passed else "exact")
        return connection

    def in_good_order(self) -> None:
        with self.asked(self.exact) as connection, suppress(OSError):
            connection.unwrap().close()

    def half_closed(self) -> None:
        connection = self.asked(self.exact)
        connection.shutdown(socket.SHUT_WR)
        self.later(connection)

    def unidentified(self) -> None:
        with suppress(OSError), self.shaken(self.mutual) as connection:
            connection.recv(1)

    def make(self, count: int) -> Counter[str]:
        # A handshake takes the client longer than all the rest: there are fewer of those.
        names = [name for name in self.kinds for _ in range(1 if name in SHAKEN else 3)]
        made = Counter[str]()
        for index in range(count):
            name = names[index % len(names)]
            self.kinds[name]()
            made[name] += 1
        while self.open:
            self.open.pop().close()
        return made


def test_ten_thousand_endings_leave_nothing_behind() -> None:
    with running_showcase(workers=2) as show:
        symphony = show.symphony
        with symphony.config_file.open("a") as file:
            file.write(DEAD)
        assert symphony.command("reload").returncode == 0
        clients = Clients(show)
        family = {process.pid: process.name() for process in symphony.processes()}

        def at_rest() -> dict[int, tuple[int, int]]:
            """Descriptors and resident bytes of each process, when nothing is open."""
            symphony.wait_for(lambda status: status.connections.active == 0, within_s=20)
            found = {pid: psutil.Process(pid) for pid in family}
            return {pid: (each.num_fds(), each.memory_info().rss) for pid, each in found.items()}

        made = clients.make(FIRST)
        before = at_rest()
        made += clients.make(CONNECTIONS - FIRST)
        after = at_rest()
        assert sum(made.values()) == CONNECTIONS and len(made) == len(clients.kinds)
        connections = symphony.status().connections
        assert connections.accepted >= CONNECTIONS
        for reason in (
            "not_tls",
            "truncated_client_hello",
            "handshake_failed",
            "upstream_missing",
            "client_left",
        ):
            assert connections.errors.get(reason, 0) > CONNECTIONS // 40, (reason, connections.errors)
        assert {process.pid for process in symphony.processes()} == set(family)
        for pid, name in family.items():
            assert after[pid][0] <= before[pid][0], f"{name} has descriptors left"
            assert after[pid][1] - before[pid][1] < MOST_GROWTH, f"{name} grows"
        wait_until(lambda: not symphony.logged("instance failed"), "nothing went wrong")
