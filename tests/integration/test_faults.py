"""What the rest of the tree does while one process of it is killed, stopped or gone: real processes under traffic."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from symphony.api.status import RUNNING
from tests.support.acceptor import wait_until
from tests.support.calls import ask, call, connect
from tests.support.campaign import CHILDREN
from tests.support.peers import Background
from tests.support.ports import lasting_port
from tests.support.showcase import Showcase, running_showcase
from tests.support.symphony_process import SymphonyProcess, actor
from tests.support.traffic import LongConnection, SteadyCalls

ACCEPTORS = ("acceptor-0", "acceptor-1")
BACK_WITHIN_S = 10.0
MISSED_AFTER_S = 2.0
"""Without a heartbeat, a child is taken for hung."""
CALLED = ("exact", "passed")
EXTRA_ROUTE = """
[[routes]]
sni = "added.example.test"
upstreams = [{ kind = "tcp", host = "127.0.0.1", port = 9 }]
"""


@pytest.fixture
def show() -> Iterator[Showcase]:
    with running_showcase() as running:
        yield running


@contextmanager
def long_connections(show: Showcase) -> Iterator[dict[str, list[LongConnection]]]:
    """For each acceptor, a terminated and a passed connection that it holds, talking until the block is left."""
    with ExitStack() as stack:
        found: dict[str, list[LongConnection]] = {}
        for name in ACCEPTORS:
            found[name] = [held_by(name, show, route, stack) for route in CALLED]
        yield found


def held_by(acceptor: str, show: Showcase, route: str, stack: ExitStack) -> LongConnection:
    """A talking connection that `acceptor` holds: the kernel deals connections out by the client's port."""
    expected = show.expected[route]
    for _ in range(100):
        connection = connect(expected.target)
        if show.symphony.acceptor_of(connection) == acceptor:
            long = LongConnection(expected, connection)
            stack.callback(long.close)
            long.start()
            long.wait_answers(1)
            return long
        connection.close()
    raise AssertionError(f"none of 100 connections went to {acceptor}")


def wait_back(symphony: SymphonyProcess, name: str, restarts: int, killed_at: float) -> float:
    """Wait until `name` runs in its next life; return how long after `killed_at` that was."""
    while True:
        child = symphony.child(name)
        took = time.monotonic() - killed_at
        if child.restarts == restarts and child.state == RUNNING:
            return took
        assert took < 30, f"{name} is not back: {child}\n{symphony.log[-4000:]}"
        time.sleep(0.005)


def reload(show: Showcase) -> None:
    """Add a route, and reload: every acceptor serves it then."""
    before = show.symphony.acceptor(ACCEPTORS[0]).version
    show.symphony.config_file.write_text(show.config + EXTRA_ROUTE)
    done = show.symphony.command("reload")
    assert done.returncode == 0, done.stderr
    assert [show.symphony.acceptor(name).version for name in ACCEPTORS] == [before + 1] * len(ACCEPTORS)
    assert show.symphony.status().routes == len(show.expected) + 1


@pytest.mark.parametrize("name", CHILDREN)
def test_a_killed_child_takes_nothing_else_with_it(show: Showcase, name: str) -> None:
    symphony = show.symphony
    routes = [show.expected[route] for route in (*CALLED, "pool")]
    with long_connections(show) as long, SteadyCalls(routes) as calls:
        calls.wait_answers(20)
        assert calls.failures == []
        others = {found.name: found.pid for found in symphony.status().actors if found.name != name}

        killed = symphony.kill_child(name)
        killed_at = time.monotonic()
        took = wait_back(symphony, name, killed.restarts + 1, killed_at)
        calls.wait_answers(100)

        assert took < BACK_WITHIN_S
        # New connections are served all the while.
        assert calls.failed_after(killed_at) == []
        if name in ACCEPTORS:
            # Each of the threads may have had its one call inside the killed acceptor.
            assert len(calls.failures) <= len(routes), calls.failures
        else:
            assert calls.failures == []
        for holder, connections in long.items():
            for connection in connections:
                if holder == name:
                    connection.wait_end()
                else:
                    connection.wait_answers(20)
        status = symphony.status()
        assert {found.name: found.pid for found in status.actors if found.name != name} == others
        assert actor(status, name).restarts == 1
        assert actor(status, name).pid != killed.pid
        assert all(found.restarts == 0 for found in status.actors if found.name != name)
    assert status.config_version == 1
    assert "Traceback" not in symphony.log


def test_traffic_and_restarts_go_on_while_the_registry_is_stopped(show: Showcase) -> None:
    symphony = show.symphony
    with long_connections(show) as long, SteadyCalls([show.expected["exact"]]) as calls:
        registry = symphony.wait_running("route-registry").pid
        os.kill(registry, signal.SIGSTOP)
        stopped_at = time.monotonic()
        killed = symphony.kill_child("acceptor-0")
        killed_at = time.monotonic()
        assert wait_back(symphony, "acceptor-0", killed.restarts + 1, killed_at) < BACK_WITHIN_S
        calls.wait_answers(30)
        with suppress(ProcessLookupError):  # a busy machine may take so long that it is missed
            os.kill(registry, signal.SIGCONT)
        stopped_for_s = time.monotonic() - stopped_at
        for connection in long["acceptor-1"]:
            connection.wait_answers(10)
        reload(show)
        assert calls.failed_after(killed_at) == []
    if stopped_for_s < MISSED_AFTER_S - 0.5:
        assert symphony.child("route-registry").restarts == 0
        assert symphony.logged("registry_silent"), "it began with the snapshot on disk"


def test_a_reload_waits_for_an_acceptor_that_hangs_to_be_replaced(show: Showcase) -> None:
    symphony = show.symphony
    stopped = symphony.wait_running("acceptor-1").pid
    os.kill(stopped, signal.SIGSTOP)
    reload(show)
    assert symphony.child("acceptor-1").pid != stopped


def test_a_reload_waits_for_a_registry_that_is_away(show: Showcase) -> None:
    symphony = show.symphony
    # Killed as soon as it is back, it waits longer each time: 0, 50, 100, 200, 400, then 800 ms.
    for _ in range(6):
        killed = symphony.kill_child("route-registry").pid
        wait_until(lambda killed=killed: symphony.child("route-registry").pid != killed, "its death is seen")
    reload(show)
    assert symphony.child("route-registry").restarts == 6


def test_a_registry_that_stays_stopped_is_replaced(show: Showcase) -> None:
    symphony = show.symphony
    with long_connections(show) as long, SteadyCalls([show.expected["exact"]]) as calls:
        os.kill(symphony.wait_running("route-registry").pid, signal.SIGSTOP)
        stopped_at = time.monotonic()
        took = wait_back(symphony, "route-registry", 1, stopped_at)
        assert 1.5 < took < 20, "two seconds without a heartbeat, and a start"
        reload(show)
        calls.wait_answers(20)
        for connections in long.values():
            for connection in connections:
                connection.wait_answers(10)
        assert calls.failures == []
        assert calls.answered_between(stopped_at, stopped_at + took) > 20


def test_what_waits_for_a_killed_acceptor_is_served(show: Showcase) -> None:
    symphony = show.symphony
    stopped = symphony.wait_running("acceptor-0").pid
    os.kill(stopped, signal.SIGSTOP)
    expected = show.expected["exact"]
    calls = [Background(lambda: call("python", expected.target)) for _ in range(30)]
    # All that acceptor-1 has got are answered; the others wait in the queue of the stopped one.
    wait_until(lambda: sum(each.done for each in calls) > 5, "the sibling answers its share")
    accepted = -1
    while (now := symphony.acceptor("acceptor-1").accepted) != accepted:
        accepted = now
        time.sleep(0.1)
    waiting = [each for each in calls if not each.done]
    assert waiting, "the kernel dealt all 30 connections to one of two sockets"
    os.kill(stopped, signal.SIGKILL)
    for each in calls:
        assert expected.holds(each.result())
    assert symphony.child("acceptor-0").restarts <= 1


def test_a_sibling_serves_while_the_successor_is_away(show: Showcase) -> None:
    symphony = show.symphony
    expected = show.expected["exact"]
    # Killed as soon as it is back, an acceptor waits longer each time: 0, 50, 100, 200, 400, then 800 ms.
    for _ in range(6):
        killed = symphony.kill_child("acceptor-0").pid
        wait_until(lambda killed=killed: symphony.child("acceptor-0").pid != killed, "its death is seen")
    calls = [Background(lambda: call("python", expected.target)) for _ in range(12)]
    for each in calls:
        assert expected.holds(each.result())
    assert symphony.child("acceptor-0").state != RUNNING, "all calls are answered before it is back"
    assert symphony.acceptor("acceptor-1").adopted == ("acceptor-0",)
    assert symphony.wait_running("acceptor-0").restarts == 6
    wait_until(lambda: symphony.acceptor("acceptor-1").adopted == (), "the sockets are given back")
    for _ in range(12):
        assert expected.holds(call("python", expected.target))


def test_traffic_goes_on_while_limiter_and_sampler_are_stopped(show: Showcase) -> None:
    symphony = show.symphony
    with SteadyCalls([show.expected["pool"], show.expected["exact"]]) as calls:
        for name in ("rate-limiter", "cpu-sampler"):
            os.kill(symphony.wait_running(name).pid, signal.SIGSTOP)
        stopped_at = time.monotonic()
        calls.wait_answers(30)
        assert calls.answered_between(stopped_at, stopped_at + MISSED_AFTER_S) > 2, "while they are stopped"
        for name in ("rate-limiter", "cpu-sampler"):
            wait_back(symphony, name, 1, stopped_at)
        calls.wait_answers(20)
        assert calls.failures == []


def test_nothing_outlives_a_killed_supervisor_and_its_port_is_free() -> None:
    port = lasting_port()
    with running_showcase(port=port, drain_ms=90_000) as show:
        symphony = show.symphony
        children = [found.pid for found in symphony.status().actors]
        expected = show.expected["exact"]
        with connect(expected.target) as held:
            assert ask(held) == "exact"
            os.kill(symphony.pid, signal.SIGKILL)
            symphony.wait()
            # An open connection is let end in order, while the next instance has the port already.
            assert ask(held) == "exact"
            symphony.start()
            assert symphony.port() == port
            assert ask(held) == "exact"
        wait_until(
            lambda: not any(pid is not None and Path(f"/proc/{pid}").exists() for pid in children),
            "every child of the killed one ends",
            limit_s=10,
        )
        for each in show.expected.values():
            assert each.holds(call("python", each.target))
        assert symphony.stop() == 0
