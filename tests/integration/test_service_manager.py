"""A running instance under a service manager: what it tells, and the sockets that it is given."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from symphony.tls.certificate_maker import make_certificate
from tests.support.acceptor import wait_until
from tests.support.peers import UpstreamHost
from tests.support.service_manager import NotifySocket
from tests.support.symphony_process import SymphonyProcess
from tests.support.tls_client import SteppedClient, connect

MADE = make_certificate(["a.test"])
FILES = {"chain.pem": MADE.chain_pem, "key.pem": MADE.key_pem}
ROUTE = """
[[routes]]
sni = "a.test"
cert = { cert_chain_file = "chain.pem", private_key_file = "key.pem" }
upstreams = [{ kind = "uds", path = "nobody.sock" }]
"""
LISTENER = """
[[listeners]]
host = "127.0.0.1"
port = 0
"""


@pytest.fixture
def manager() -> Iterator[NotifySocket]:
    with NotifySocket() as found:
        yield found


def shakes_hands(port: int) -> bool:
    try:
        with connect(port) as sock:
            SteppedClient("a.test").finish(sock)
    except OSError:
        return False
    return True


def test_it_tells_of_its_life(manager: NotifySocket) -> None:
    # Its socket takes ten datagrams that nobody has read: what is told while a command runs must not fill it.
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "8000000"}
    symphony = SymphonyProcess(
        "workers = 2\ndrain_timeout_ms = 3000\n" + LISTENER + ROUTE, files=FILES, environment=environment
    )
    try:
        symphony.spawn()
        assert manager.receive() == {"READY": "1", "STATUS": "Serving with 2 acceptors"}
        wait_until(lambda: symphony.logged("ready"), "it says so in its log, too")
        assert shakes_hands(symphony.port())
        manager.wait_for("WATCHDOG")

        os.kill(symphony.pid, signal.SIGHUP)
        told = int(manager.wait_for("RELOADING")["MONOTONIC_USEC"])
        assert 0 <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000 - told < 60_000_000
        manager.wait_for("READY")
        assert symphony.command("reload").returncode == 0
        manager.wait_for("RELOADING")
        manager.wait_for("READY")

        symphony.config_file.write_text("workers = 1\n" + LISTENER + ROUTE)
        assert symphony.command("reload").returncode == 0
        assert manager.wait_for("STATUS")["STATUS"] == "Serving with 1 acceptor"

        symphony.config_file.write_text("nonsense")
        assert symphony.command("reload").returncode == 2
        manager.wait_for("RELOADING")
        manager.wait_for("READY")  # refused, and serving as before

        symphony.process.send_signal(signal.SIGTERM)
        stopping = manager.wait_for("STOPPING")
        assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 3_000_000
        assert symphony.wait() == 0
    finally:
        symphony.clean_up()


def test_an_upgrade_is_another_main_process_and_then_a_ready_one(manager: NotifySocket) -> None:
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"}
    symphony = SymphonyProcess(
        "workers = 1\ndrain_timeout_ms = 3000\n" + LISTENER + ROUTE, files=FILES, environment=environment
    )
    try:
        symphony.spawn()
        manager.wait_for("READY")
        wait_until(lambda: symphony.logged("ready"), "it says so in its log, too")
        for _ in range(2):
            # A service manager reads all the while, and so what comes first is heard first.
            with ThreadPoolExecutor(1) as beside:
                upgrading = beside.submit(symphony.command, "upgrade")
                told = manager.wait_for("MAINPID")
                assert manager.wait_for("READY")["STATUS"] == "Serving with 1 acceptor"
                assert upgrading.result().returncode == 0
            assert told == {"MAINPID": str(symphony.serving_pid)}
            assert shakes_hands(symphony.port())
        assert symphony.wait() == 0
        # Nobody speaks for the service but the one that is it, and that one says that it is alive.
        assert not any("STOPPING" in each for each in manager.waiting())
        manager.wait_for("WATCHDOG")
        assert symphony.command("stop").returncode == 0
        manager.wait_for("STOPPING")
    finally:
        symphony.clean_up()


def test_it_is_not_alive_when_nobody_serves(manager: NotifySocket) -> None:
    """The supervisor's loop turns, but every acceptor is in a crash loop: to be started anew is all that helps."""
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    symphony = SymphonyProcess("workers = 1\n" + LISTENER + ROUTE, files=FILES, environment=environment)
    try:
        symphony.start()
        manager.wait_for("WATCHDOG")
        pid = symphony.pid_of("acceptor-0")
        shutil.rmtree(symphony.runtime_dir)  # no mailbox can be bound any more
        os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: any(each.get("STATUS", "").startswith("Not serving") for each in manager.waiting()),
            "it says that nobody serves",
        )
        deadline = time.monotonic() + 1.0  # ten times it would have said that it is alive
        while time.monotonic() < deadline:
            assert all("WATCHDOG" not in each for each in manager.waiting())
            time.sleep(0.05)
    finally:
        symphony.clean_up()


def test_without_a_service_manager_nothing_is_told() -> None:
    environment = {"NOTIFY_SOCKET": "/nowhere/notify"}
    symphony = SymphonyProcess("workers = 1\n" + LISTENER + ROUTE, files=FILES, environment=environment)
    try:
        symphony.start()
        wait_until(lambda: symphony.logged("service_manager_not_told"), "it is told once")
        assert shakes_hands(symphony.port())
    finally:
        symphony.clean_up()


class Activated(SymphonyProcess):
    """Started as systemd does it, with listening sockets from descriptor 3 on."""

    def __init__(self, config: str, *sockets: socket.socket) -> None:
        super().__init__(config, files=FILES)
        self._sockets = sockets

    def spawn(self) -> None:
        command = [
            "sh",
            "-c",
            'export LISTEN_PID=$$; exec "$@"',
            "sh",
            sys.executable,
            "-m",
            "symphony",
            "run",
        ]

        def place() -> None:
            # First out of the way: one of them may be where another is to be.
            high = [os.dup2(sock.fileno(), 100 + index) for index, sock in enumerate(self._sockets)]
            for index, descriptor in enumerate(high):
                os.dup2(descriptor, 3 + index)

        passed = {"LISTEN_FDS": str(len(self._sockets)), "LISTEN_FDNAMES": "https:other"}
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self._environment, **passed},
                cwd=self.directory,
                start_new_session=True,
                close_fds=False,
                preexec_fn=place,
            )


def config_for(port: int, workers: int) -> str:
    return f'workers = {workers}\n[[listeners]]\nhost = "127.0.0.1"\nport = {port}\n{ROUTE}'


def test_sockets_from_the_service_manager_outlive_a_restart() -> None:
    """Clients that come while nobody is there wait; in between all acceptors serve the one socket."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        symphony = Activated(config_for(port, 2), listening)
        try:
            symphony.start()
            assert symphony.port() == port
            assert not symphony.logged("passed_socket_not_used")
            assert all(shakes_hands(port) for _ in range(30))
            symphony.wait_for(
                lambda status: sum(listener.accepted for listener in status.listeners) >= 30, within_s=10
            )
            before = symphony.kill_child("acceptor-0").pid
            assert all(shakes_hands(port) for _ in range(10))
            wait_until(lambda: symphony.child("acceptor-0").pid not in (before, 0), "it is back")
            assert all(shakes_hands(port) for _ in range(10))

            # More acceptors, and the same socket.
            symphony.config_file.write_text(config_for(port, 3))
            done = symphony.command("reload")
            assert done.returncode == 0, done.stderr
            assert all(shakes_hands(port) for _ in range(10))

            assert symphony.stop() == 0
            with connect(port) as waiting:  # in the queue of the service manager's socket
                symphony.start()
                SteppedClient("a.test").finish(waiting)
            assert symphony.stop() == 0
        finally:
            symphony.clean_up()


def test_sockets_from_the_service_manager_outlive_upgrades() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as spare:
        port, other = listening.getsockname()[1], spare.getsockname()[1]
        symphony = Activated(config_for(port, 2), listening, spare)
        try:
            symphony.start()
            for workers in (3, 1):
                symphony.config_file.write_text(config_for(port, workers))
                done = symphony.command("upgrade")
                assert done.returncode == 0, done.stderr
                assert all(shakes_hands(port) for _ in range(10))
            # What no listener had until now was handed on as well.
            both = config_for(port, 1) + LISTENER.replace("port = 0", f"port = {other}")
            symphony.config_file.write_text(both)
            done = symphony.command("reload")
            assert done.returncode == 0, done.stderr
            assert shakes_hands(other)
            assert symphony.command("stop").returncode == 0
            for each in (port, other):
                with connect(each):
                    pass  # they are the service manager's, and listen on
        finally:
            symphony.clean_up()


def test_the_supervisor_is_killed_and_the_socket_lives_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        symphony = Activated(config_for(port, 1), listening)
        try:
            symphony.start()
            assert shakes_hands(port)
            acceptor = symphony.pid_of("acceptor-0")
            os.kill(symphony.pid, signal.SIGKILL)
            symphony.process.wait(10)
            wait_until(lambda: not os.path.exists(f"/proc/{acceptor}"), "the orphan is gone")
            with connect(port) as waiting:
                symphony.start()
                SteppedClient("a.test").finish(waiting)
        finally:
            symphony.clean_up()


def test_an_address_that_no_listener_has_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as wanted, socket.create_server(("127.0.0.1", 0)) as other:
        symphony = Activated(config_for(wanted.getsockname()[1], 1), wanted, other)
        try:
            symphony.start()
            (told,) = symphony.logged("passed_socket_not_used")
            assert (told["name"], told["address"]) == ("other", f"127.0.0.1:{other.getsockname()[1]}")
            assert shakes_hands(wanted.getsockname()[1])
        finally:
            symphony.clean_up()


def test_a_socket_that_is_none_for_it_refuses_the_start() -> None:
    upstream = UpstreamHost("uds")
    symphony = Activated(config_for(8443, 1), upstream.listening)
    try:
        symphony.spawn()
        assert symphony.wait() == 1
        assert "the socket https from the service manager is not for TCP" in symphony.log
    finally:
        symphony.clean_up()
        upstream.close()
