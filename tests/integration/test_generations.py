"""Reloads that take other acceptors: listeners and worker counts that change under traffic, and what may go wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import psutil
import pytest

from symphony.api.generations import MOST_OLDER
from symphony.api.status import DRAINING, RUNNING, Status
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import ask as ask_mailbox
from symphony.messages.registry import RegistryReply, Reload, ReloadDone
from tests.support.acceptor import descriptors, wait_until
from tests.support.calls import ask, call, client_context, connect
from tests.support.generations import at_port, configure, listener, refuses, steady, talking
from tests.support.ports import lasting_port
from tests.support.showcase import Showcase, running_showcase
from tests.support.symphony_process import SymphonyProcess, actor
from tests.support.traffic import SteadyCalls


@pytest.fixture
def show() -> Iterator[Showcase]:
    with running_showcase() as running:
        yield running
        assert "Traceback" not in running.symphony.log


def reload(show: Showcase) -> str:
    done = show.symphony.command("reload")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def acceptors(status: Status, state: str = RUNNING) -> list[str]:
    return [found.name for found in status.actors if found.kind == "acceptor" and found.state == state]


def wait_settled(show: Showcase, workers: int) -> Status:
    """Wait until nobody drains any more."""
    status = show.symphony.wait_for(
        lambda status: sum(found.kind == "acceptor" for found in status.actors) == workers
    )
    assert len(acceptors(status)) == workers, status.actors
    return status


def processes(symphony: SymphonyProcess) -> int:
    return len(psutil.Process(symphony.pid).children(recursive=True))


def test_worker_counts_change_up_and_down_under_traffic(show: Showcase) -> None:
    symphony = show.symphony
    baseline = processes(symphony)
    accepted = 0
    with steady(show) as calls:
        for workers in (4, 1, 3, 2):
            with talking(show.expected["exact"]) as long:
                before = symphony.status()
                configure(show, workers=workers)
                assert "serving from now on" in reload(show)
                status = symphony.status()
                assert len(acceptors(status)) == workers
                assert set(acceptors(status)).isdisjoint(acceptors(before))
                assert acceptors(status, DRAINING), "the one that holds the connection"
                long.wait_answers(5)
                calls.wait_answers(20)
                # No total ever goes back, whoever is gone.
                for now in (status, symphony.status()):
                    assert now.connections.accepted >= accepted
                    accepted = now.connections.accepted
            status = wait_settled(show, workers)
            assert accepted <= status.connections.accepted
            assert status.listeners[0].accepted <= status.connections.accepted
    status = wait_settled(show, 2)
    assert status.connections.accepted >= len(calls.answered)
    assert status.connections.errors == {}
    assert [found.restarts for found in status.actors] == [0] * len(status.actors)
    assert processes(symphony) == baseline
    # What was not there before are the sockets that were added for four acceptors.
    open_then = descriptors(symphony.pid)
    for _ in range(2):
        configure(show, workers=3)
        reload(show)
        wait_settled(show, 3)
        configure(show, workers=2)
        reload(show)
        wait_settled(show, 2)
    wait_until(lambda: descriptors(symphony.pid) <= open_then, "nothing is left open")
    assert sorted(path.name for path in symphony.runtime_dir.glob("acceptor-*")) == sorted(
        f"{name}.sock" for name in acceptors(symphony.status())
    )
    assert symphony.stop() == 0


def test_listeners_are_added_changed_and_removed_under_traffic(show: Showcase) -> None:
    symphony = show.symphony
    second, third = lasting_port(), lasting_port()
    with steady(show):
        configure(show, listener(second))
        reload(show)
        assert call("python", at_port(show, second)).service == "exact"
        status = symphony.status()
        assert [found.address.rpartition(":")[2] for found in status.listeners] == [
            str(symphony.port()),
            str(second),
        ]
        there = replace(show.expected["exact"], target=at_port(show, second))
        with talking(there) as long:
            configure(show, listener(third))
            reload(show)
            assert refuses(second), "a listener that was taken out lets nobody in at once"
            assert call("python", at_port(show, third)).service == "exact"
            states = {found.id: (found.state, found.active) for found in symphony.status().listeners}
            assert states[f"127.0.0.1:{second}"] == ("closing", 1)
            assert states[f"127.0.0.1:{third}"][0] == "open"
            long.wait_answers(10)
        wait_settled(show, 2)
        assert f"127.0.0.1:{second}" not in {found.id for found in symphony.status().listeners}
        # And back again: the address was given free.
        configure(show, listener(second), listener(third))
        reload(show)
        assert call("python", at_port(show, second)).service == "exact"
    assert symphony.status().connections.errors == {}
    assert symphony.stop() == 0
    assert refuses(second)


def test_an_address_becomes_one_of_all_and_one_again_under_traffic(show: Showcase) -> None:
    port = lasting_port()
    configure(show, listener(port))
    reload(show)
    here = replace(show.expected["exact"], target=at_port(show, port))
    with SteadyCalls([here]) as calls:
        for host in ("0.0.0.0", "127.0.0.1", "localhost", "127.0.0.1"):
            calls.wait_answers(5)
            configure(show, listener(port, host))
            reload(show)
            calls.wait_answers(10)
            assert refuses(port, "127.0.0.2") == (host != "0.0.0.0")
    # Only from all addresses to one there is a moment in which the kernel deals with both.
    assert calls.failures == []


def test_an_address_that_is_taken_keeps_everything_as_it_was(show: Showcase) -> None:
    symphony = show.symphony
    before = {found.name: found.pid for found in symphony.status().actors}
    with socket.create_server(("127.0.0.1", 0)) as other, steady(show):
        port = other.getsockname()[1]
        configure(show, listener(lasting_port()), listener(port), workers=5)
        done = symphony.command("reload")
        assert done.returncode == 2
        assert f"listeners[2].port: port {port} on 127.0.0.1 is already taken" in done.stderr
        os.kill(symphony.pid, signal.SIGHUP)
        wait_until(lambda: len(symphony.logged("listeners not changed")) == 2, "it is logged")
        status = symphony.status()
        assert {found.name: found.pid for found in status.actors} == before
        assert len(status.listeners) == 1
        other.close()
        assert "serving from now on" in reload(show)
        assert call("python", at_port(show, port)).service == "exact"
    wait_settled(show, 5)


def test_acceptors_that_do_not_start_leave_everything_as_it_was(show: Showcase) -> None:
    symphony = show.symphony
    before = {found.name: found.pid for found in symphony.status().actors}
    open_before = descriptors(symphony.pid)
    in_the_way = symphony.runtime_dir / "acceptor-3.sock"
    in_the_way.mkdir()
    port = lasting_port()
    with steady(show), talking(show.expected["exact"]) as long:
        configure(show, listener(port), workers=4)
        done = symphony.command("reload")
        assert done.returncode == 1
        assert "the new acceptors did not start: acceptor-3 failed to start" in done.stderr
        long.wait_answers(5)
        status = symphony.status()
        assert {found.name: found.pid for found in status.actors} == before
        assert refuses(port)
        wait_until(lambda: descriptors(symphony.pid) <= open_before, "nothing is left open")
        in_the_way.rmdir()
        reload(show)
        assert call("python", at_port(show, port)).service == "exact"
    wait_settled(show, 4)


def test_how_long_it_drains_is_changed_without_new_processes(show: Showcase) -> None:
    symphony = show.symphony
    before = {found.name: found.pid for found in symphony.status().actors}
    with talking(show.expected["exact"], to_the_end=False) as long:
        file = symphony.config_file
        file.write_text(show.config.replace("drain_timeout_ms = 20000", "drain_timeout_ms = 1000"))
        assert "in force" in reload(show)
        assert {found.name: found.pid for found in symphony.status().actors} == before
        os.kill(symphony.pid, signal.SIGTERM)
        assert symphony.wait(12) == 0
        long.wait_end()


def test_it_does_not_matter_what_made_the_registry_read(show: Showcase) -> None:
    symphony = show.symphony
    configure(show, workers=3)
    os.kill(symphony.pid, signal.SIGHUP)
    wait_settled(show, 3)
    configure(show, workers=1)
    path = mailbox_path(str(symphony.runtime_dir), "route-registry")
    assert isinstance(asyncio.run(ask_mailbox(path, Reload(), RegistryReply, 10.0)), ReloadDone)
    wait_settled(show, 1)
    # A registry that starts again reads the file as well.
    configure(show, workers=2)
    symphony.kill_child("route-registry")
    wait_settled(show, 2)
    check_all(show)


def check_all(show: Showcase) -> None:
    for expected in show.expected.values():
        assert expected.holds(call("python", expected.target)), expected.route


def test_nothing_is_left_of_a_generation_that_is_gone(show: Showcase) -> None:
    symphony = show.symphony

    def shared() -> int:
        """How many pieces of memory the supervisor shares, or has shared, with acceptors."""
        with open(f"/proc/{symphony.pid}/maps") as maps:
            return sum("/dev/zero" in line or "memfd:" in line for line in maps)

    def change(*numbers: int) -> None:
        for workers in numbers:
            configure(show, workers=workers)
            reload(show)
            wait_settled(show, workers)

    change(3, 2)  # the most sockets that there are to be
    wait_until(lambda: not symphony.status().connections.active, "it is idle")
    before = shared(), min(descriptors(symphony.pid) for _ in range(20))
    change(1, 3, 2)
    wait_until(lambda: shared() == before[0], "it has no more memory than before")
    wait_until(lambda: descriptors(symphony.pid) <= before[1], "it has no more descriptors than before")


def test_sessions_are_resumed_by_the_next_generation(show: Showcase) -> None:
    target = show.expected["exact"].target
    context = client_context(target)
    with connect(target, context) as connection:
        assert ask(connection) == "exact"
        session = connection.session
    configure(show, workers=1)
    reload(show)
    wait_settled(show, 1)
    with connect(target, context, session) as connection:
        assert ask(connection) == "exact"
        assert connection.session_reused


def test_only_so_many_generations_drain_at_a_time(show: Showcase) -> None:
    # None of them may be over before the last has begun.
    show = replace(show, config=show.config.replace("drain_timeout_ms = 20000", "drain_timeout_ms = 90000"))
    symphony = show.symphony
    with ExitStack() as stack:
        held = []
        for number in range(MOST_OLDER):
            held.append(stack.enter_context(connect(show.expected["exact"].target)))
            assert ask(held[-1]) == "exact"
            configure(show, workers=1 + number % 2)
            reload(show)
        configure(show, workers=3)
        done = symphony.command("reload")
        assert done.returncode == 1
        assert f"{MOST_OLDER} earlier generations of acceptors still have connections" in done.stderr
        assert [ask(each) for each in held] == ["exact"] * len(held)
        assert len(acceptors(symphony.status())) != 3
        held[4].close()
        symphony.wait_for(lambda status: len(acceptors(status)) == 3)
        assert [ask(each) for each in held if each is not held[4]] == ["exact"] * (len(held) - 1)
    wait_settled(show, 3)


def test_an_acceptor_that_is_killed_while_it_drains_takes_nothing_else_with_it(show: Showcase) -> None:
    symphony = show.symphony
    with steady(show), ExitStack() as stack:
        held = [stack.enter_context(connect(show.expected["exact"].target)) for _ in range(16)]
        configure(show, workers=1)
        reload(show)
        draining = [found.active for found in symphony.status().actors if found.state == DRAINING]
        assert len(draining) == 2 and all(draining), "the kernel dealt 16 connections to one of two sockets"
        os.kill(symphony.pid_of("acceptor-0"), signal.SIGKILL)
        wait_until(lambda: symphony.child("acceptor-0").pid == 0, "its death is seen")
        lost = 0
        for each in held:
            try:
                assert ask(each) == "exact"
            except OSError:
                lost += 1
        assert 0 < lost < len(held)
        assert symphony.child("acceptor-0").restarts == 0, "it has nothing to come back for"
    wait_settled(show, 1)


def test_a_supervisor_that_is_killed_while_a_generation_drains_frees_the_ports() -> None:
    port = lasting_port()
    with running_showcase(port=port, drain_ms=90_000) as show:
        symphony = show.symphony
        with connect(show.expected["exact"].target) as held:
            assert ask(held) == "exact"
            configure(show, workers=1)
            reload(show)
            children = psutil.Process(symphony.pid).children(recursive=True)
            os.kill(symphony.pid, signal.SIGKILL)
            symphony.wait()
            wait_until(lambda: refuses(port), "nobody listens any more")
            assert ask(held) == "exact"
            symphony.start()
            assert ask(held) == "exact"
        psutil.wait_procs(children, timeout=10)
        assert not any(child.is_running() for child in children)
        check_all(show)


def test_a_stop_takes_every_generation_along(show: Showcase) -> None:
    symphony = show.symphony
    children = []
    with talking(show.expected["exact"], to_the_end=False) as long:
        configure(show, workers=1)
        reload(show)
        children = psutil.Process(symphony.pid).children(recursive=True)
        assert actor(symphony.status(), "acceptor-2").state == RUNNING
        done = symphony.command("stop", "--timeout", "0.5")
        assert done.returncode == 0
        symphony.wait()
        long.wait_end()
    assert not any(child.is_running() for child in children)
    assert [path.name for path in symphony.runtime_dir.iterdir()] == ["lock"]
