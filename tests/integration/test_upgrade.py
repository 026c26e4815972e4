"""Upgrades of a running instance under traffic, and all that may go wrong with the process that is to take over."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from symphony.mailbox.address import RuntimeDirBusy, RuntimeLock
from tests.support.acceptor import descriptors, settled, wait_until
from tests.support.calls import ask, call, client_context, connect
from tests.support.generations import at_port, configure, listener, refuses, steady, talking
from tests.support.ports import lasting_port
from tests.support.showcase import Showcase, running_showcase
from tests.support.symphony_process import SymphonyProcess
from tests.support.upgrades import (
    REAL,
    START,
    actors,
    check_unharmed,
    command,
    names,
    new_version,
    upgradable_showcase,
    upgrade,
    wait_alone,
)


@pytest.fixture
def show() -> Iterator[Showcase]:
    with upgradable_showcase() as running:
        yield running


def test_three_upgrades_under_traffic(show: Showcase) -> None:
    symphony = show.symphony
    baseline = names(symphony) - {"a"}
    counts: list[int] = []

    def open_now() -> int:
        return descriptors(symphony.serving_pid)

    with steady(show) as calls:
        for _ in range(3):
            before = symphony.serving_pid
            with talking(show.expected["exact"]) as long:
                new = upgrade(symphony)
                assert new != before
                calls.wait_answers(30)
                long.wait_answers(10)
                status = symphony.status()
                assert [found.pid for found in status.predecessors] == [before]
                assert status.predecessors[0].active == 1
                assert psutil.pid_exists(before)
            wait_alone(symphony)
            assert len(names(symphony) - baseline) == 1, names(symphony)
            assert len(psutil.Process(new).children()) == 5
            counts.append(settled(open_now))
            wait_until(lambda: open_now() <= counts[0], f"no more is open than at first: {counts}")
    assert symphony.status().connections.errors == {}
    assert symphony.wait() == 0, "the first one ended in order"
    assert "Traceback" not in symphony.log
    # Everything works as in the first one.
    configure(show, workers=3)
    assert command(symphony, "reload").returncode == 0
    done = command(symphony, "stop")
    assert (done.returncode, done.stderr) == (0, "")
    assert not symphony.processes()
    assert names(symphony) == {"lock"}


def test_an_upgrade_by_signal(show: Showcase) -> None:
    symphony = show.symphony
    with steady(show, ["exact"]):
        os.kill(symphony.pid, signal.SIGUSR2)
        wait_until(lambda: symphony.serving_pid != symphony.pid, "another process serves")
        assert symphony.wait() == 0
        first = symphony.serving_pid
        os.kill(first, signal.SIGUSR2)
        wait_until(lambda: symphony.serving_pid != first, "another process serves")
        wait_alone(symphony)
    # Tickets are sealed by keys that only the processes of one instance share: the handshake is a full one again.
    target = show.expected["exact"].target
    context = client_context(target)
    with connect(target, context) as connection:
        assert ask(connection) == "exact"
        session = connection.session
    upgrade(symphony)
    with connect(target, context, session) as connection:
        assert ask(connection) == "exact"
        assert not connection.session_reused


def test_the_new_one_serves_what_its_configuration_says(show: Showcase) -> None:
    symphony = show.symphony
    gone, new = lasting_port(), lasting_port()
    configure(show, listener(gone))
    assert command(symphony, "reload").returncode == 0
    there = replace(show.expected["exact"], target=at_port(show, gone))
    with steady(show), talking(there) as long:
        configure(show, listener(new), workers=4)
        upgrade(symphony)
        wait_until(lambda: refuses(gone), "who was taken out lets nobody in")
        assert call("python", at_port(show, new)).service == "exact"
        status = symphony.status()
        assert sum(found.kind == "acceptor" for found in status.actors) == 4
        long.wait_answers(5)
        # Fewer acceptors than sockets.
        configure(show, listener(new), workers=1)
        upgrade(symphony)
        for _ in range(12):
            assert call("python", at_port(show, new)).service == "exact"
    wait_alone(symphony)


def test_a_broken_configuration_changes_nothing(show: Showcase) -> None:
    symphony = show.symphony
    before = actors(show)
    with steady(show), talking(show.expected["exact"]):
        symphony.config_file.write_text(show.config.replace("workers = 2", 'workers = "two"'))
        done = command(symphony, "upgrade")
        assert done.returncode == 2
        assert f"process {symphony.pid} serves on: {symphony.config_file}: workers: " in done.stderr
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            configure(show, listener(port))
            done = command(symphony, "upgrade")
            assert done.returncode == 2
            assert f"listeners[1].port: port {port} on 127.0.0.1 is already taken" in done.stderr
        symphony.config_file.write_text(show.config)
        check_unharmed(show, before)
        upgrade(symphony)


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("raise SystemExit(3)", "the new process ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "the new process ended with signal 9"),
        (
            REAL
            + "import actors.acceptor\nfrom actors.runtime import CannotRun\n"
            + "async def start(self): raise CannotRun('an example')\n"
            + "actors.acceptor.Acceptor.start = start\n"
            + START,
            "acceptors-1 failed to start: acceptor-0 failed to start: an example",
        ),
        (
            REAL + "import symphony.messages.succession as messages\nmessages.PROTOCOL = 99\n" + START,
            "version 1 of handing over is not known, only 99",
        ),
        (
            REAL
            + "import symphony.api.tree_dir as it\n"
            + "def fail(self): raise OSError(28, 'No space left on device')\n"
            + "it.TreeDir.step_forward = fail\n"
            + START,
            "No space left on device",
        ),
        (
            REAL
            + "import symphony.api.takeover as it\n"
            + "async def fail(self, addresses): os._exit(4)\n"
            + "it.Predecessor.take = fail\n"
            + START,
            "the new process ended with exit code 4",
        ),
    ],
    ids=["exits", "is killed", "cannot run", "another protocol", "no room", "fails at the last moment"],
)
def test_a_new_version_that_does_not_work_changes_nothing(show: Showcase, program: str, why: str) -> None:
    symphony = show.symphony
    before = actors(show)
    there = names(symphony)
    open_before = descriptors(symphony.pid)
    with steady(show), talking(show.expected["exact"]) as long:
        with new_version(show, program):
            done = command(symphony, "upgrade")
        assert done.returncode == 1, done.stdout + done.stderr
        assert why in done.stderr
        long.wait_answers(5)
        check_unharmed(show, before)
        assert names(symphony) == there
        wait_until(lambda: descriptors(symphony.pid) <= open_before, "nothing is left open")
        assert symphony.logged("not upgraded")
    upgrade(symphony)


def test_a_stop_does_not_wait_for_an_upgrade(show: Showcase) -> None:
    symphony = show.symphony
    with new_version(show, "import time; time.sleep(600)"):
        os.kill(symphony.pid, signal.SIGUSR2)
        wait_until(lambda: bool(symphony.logged("upgrading")), "it has begun")
        successor = symphony.logged("upgrading")[0]["successor"]
        assert command(symphony, "status").returncode == 0
        started = time.monotonic()
        assert command(symphony, "stop").returncode == 0
        assert time.monotonic() - started < 60  # of the two minutes that a new one has
        assert symphony.wait() == 0
    assert not psutil.pid_exists(successor)
    assert names(symphony) == {"lock"}


def test_a_supervisor_that_is_killed_while_it_upgrades() -> None:
    port = lasting_port()
    with running_showcase(port=port) as show:
        symphony = show.symphony
        slow = REAL + "import symphony.api.takeover as it\nreal = it.Predecessor.await_turn\n"
        slow += "async def wait(self):\n    await asyncio.sleep(3)\n    await real(self)\n"
        slow += "import asyncio\nit.Predecessor.await_turn = wait\n" + START
        with new_version(show, slow):
            os.kill(symphony.pid, signal.SIGUSR2)
            wait_until(lambda: len(symphony.logged("child_ready")) == 10, "the new one is as good as ready")
            os.kill(symphony.pid, signal.SIGKILL)
            symphony.wait()
        wait_until(lambda: refuses(port), "nobody listens any more")
        wait_until(lambda: not symphony.processes(), "both are gone")
        symphony.start()
        assert call("python", show.expected["exact"].target).service == "exact"
        assert symphony.stop() == 0


def test_a_new_supervisor_that_is_killed_leaves_the_old_one_to_finish() -> None:
    port = lasting_port()
    with running_showcase(port=port, drain_ms=90_000) as show:
        symphony = show.symphony
        with connect(show.expected["exact"].target) as held:
            assert ask(held) == "exact"
            new = upgrade(symphony)
            with connect(show.expected["exact"].target) as other:
                assert ask(other) == "exact"
                os.kill(new, signal.SIGKILL)
                wait_until(lambda: refuses(port), "nobody listens any more")
                assert (ask(held), ask(other)) == ("exact", "exact")
                assert command(symphony, "status").returncode == 3
                # The directory and the port are free at once, beside what drains.
                first = symphony.process
                symphony.start()
                assert (ask(held), ask(other)) == ("exact", "exact")
                assert call("python", show.expected["exact"].target).service == "exact"
        assert first.wait(10) == 0
        assert symphony.stop() == 0
        assert names(symphony) == {"lock"}


def test_the_runtime_directory_is_never_free_for_a_third_one(show: Showcase) -> None:
    symphony = show.symphony
    found: list[str] = []
    done = threading.Event()

    def try_to_get_in() -> None:
        while not done.is_set():
            lock = RuntimeLock(str(symphony.runtime_dir))
            try:
                lock.acquire()
            except RuntimeDirBusy as error:
                found.append(str(error.pid))
            else:
                found.append("free")
                lock.release()

    third = threading.Thread(target=try_to_get_in)
    third.start()
    try:
        pids = {str(symphony.pid)}
        for _ in range(2):
            pids.add(str(upgrade(symphony)))
            wait_alone(symphony)
    finally:
        done.set()
        third.join()
    assert set(found) == pids


def test_a_stop_right_after_an_upgrade_takes_both_along(show: Showcase) -> None:
    symphony = show.symphony
    with talking(show.expected["exact"], to_the_end=False) as long:
        upgrade(symphony)
        with talking(show.expected["exact"], to_the_end=False):
            upgrade(symphony)
            assert len(symphony.status().predecessors) == 2
            done = command(symphony, "stop", "--timeout", "0.5")
            assert done.returncode == 0
            assert not symphony.processes()
        long.wait_end()
    assert names(symphony) == {"lock"}


def test_the_admin_interface_moves_along() -> None:
    port = lasting_port()
    with running_showcase() as show:
        symphony = show.symphony
        symphony.stop()
        symphony.config_file.write_text(f'admin = {{ host = "127.0.0.1", port = {port} }}\n' + show.config)
        symphony.start()
        assert is_well(symphony, port)
        with connect(replace(show.expected["exact"].target, port=symphony.port())) as held:
            assert ask(held) == "exact"
            upgrade(symphony)
            wait_until(lambda: is_well(symphony, port), "the new one's answers")
            admin = symphony.pid_of("admin")
            assert ask(held) == "exact"
        wait_alone(symphony)
        assert is_well(symphony, port)
        assert symphony.pid_of("admin") == admin


def is_well(symphony: SymphonyProcess, port: int) -> bool:
    """Whether the admin interface answers on its Unix socket and on its port."""
    for address, family in (
        (str(symphony.runtime_dir / "admin-http.sock"), socket.AF_UNIX),
        (("127.0.0.1", port), socket.AF_INET),
    ):
        with socket.socket(family) as sock:
            sock.settimeout(5)
            try:
                sock.connect(address)
                sock.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                answer = sock.recv(100)
            except OSError:
                return False
        if not answer.startswith(b"HTTP/1.1 200"):
            return False
    return True


def test_a_demonstration_is_not_upgraded() -> None:
    symphony = SymphonyProcess(None, arguments=["--demo", "--workers", "1"])
    try:
        symphony.start()
        done = command(symphony, "upgrade")
        assert done.returncode == 1
        assert "a demonstration is not upgraded" in done.stderr
        assert symphony.stop() == 0
    finally:
        symphony.clean_up()
