"""Upgrades that are killed at every stage, and that meet other changes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from symphony.mailbox.address import live_pid
from tests.support.acceptor import descriptors, wait_until
from tests.support.calls import ask, call, connect
from tests.support.generations import refuses, steady
from tests.support.ports import lasting_port
from tests.support.showcase import Showcase, running_showcase
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


def dying(module: str, function: str, when: str) -> str:
    """A program that is killed when it comes to a function, before it or after it."""
    owner, _, name = function.rpartition(".")
    return (
        f"{REAL}\nimport asyncio, inspect, signal\nimport {module} as module\n"
        f"owner = module{'.' + owner if owner else ''}\nreal = owner.{name}\n"
        "def die():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if inspect.iscoroutinefunction(real):\n"
        "    async def patched(*arguments):\n"
        f"        {'die()' if when == 'before' else 'await real(*arguments)'}\n        die()\n"
        "else:\n"
        "    def patched(*arguments, **more):\n"
        f"        {'die()' if when == 'before' else 'real(*arguments, **more)'}\n        die()\n"
        f"owner.{name} = patched\n{START}"
    )


STAGES = (
    ("symphony.api.serve", "bind_listeners", "after"),
    ("symphony.api.running", "Running._ready", "before"),
    ("symphony.api.running", "TreeDir.step_forward", "after"),
    ("symphony.mailbox.address", "RuntimeLock.claim", "after"),
    ("symphony.api.generations", "Generations.share", "after"),
)


def test_a_new_supervisor_that_is_killed_at_any_stage_changes_nothing(show: Showcase) -> None:
    symphony = show.symphony
    before, there = actors(show), names(symphony)
    open_before = descriptors(symphony.pid)
    with steady(show) as calls:
        for module, function, when in STAGES:
            with new_version(show, dying(module, function, when)):
                done = command(symphony, "upgrade")
            assert done.returncode == 1, (function, done.stdout + done.stderr)
            assert "ended with signal 9" in done.stderr
            calls.wait_answers(5)
            check_unharmed(show, before)
            wait_until(lambda: names(symphony) == there, "nothing is left in the directory")
        wait_until(lambda: descriptors(symphony.pid) <= open_before, "nothing is left open")
        upgrade(symphony)


# A successor that learns late that its predecessor is dead, when all its own processes have long ended.
LATE = (
    f"{REAL}\nimport asyncio\nimport symphony.api.takeover as it\nreal = it.Predecessor.is_dead\n"
    "async def is_dead(self):\n    await asyncio.sleep(2)\n    return await real(self)\n"
    f"it.Predecessor.is_dead = is_dead\n{START}"
)


@pytest.mark.parametrize(
    ("stage", "successor"),
    [("Proceed", ""), ("Yours", ""), ("Yours", LATE)],
    ids=["Proceed", "Yours", "Yours, known late"],
)
def test_an_old_supervisor_that_is_killed_at_the_last_moment(stage: str, successor: str) -> None:
    """Nobody serves then, as after the death of any supervisor; but everything can be started again at once."""
    port = lasting_port()
    with running_showcase(port=port, drain_ms=90_000) as show:
        symphony = show.symphony
        fragile = (
            f"{REAL}\nimport signal\nimport symphony.api.channel as it\nreal = it.Channel.send\n"
            "async def send(self, message, *more):\n"
            f"    if type(message).__name__ == {stage!r}:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
            f"    await real(self, message, *more)\nit.Channel.send = send\n{START}"
        )
        with new_version(show, fragile):
            assert command(symphony, "upgrade").returncode == 0
        wait_alone(symphony)
        assert symphony.wait() == 0
        with connect(show.expected["exact"].target) as held:
            assert ask(held) == "exact"
            with new_version(show, successor or REAL + START):
                assert command(symphony, "upgrade").returncode == 1
                # Long before the acceptors that are left give up their connections.
                wait_until(lambda: refuses(port), "nobody listens any more", limit_s=15)
            assert ask(held) == "exact"
            symphony.start()
            assert ask(held) == "exact"
        wait_until(lambda: len(symphony.processes()) == 6, "only the new ones are left")
        assert call("python", show.expected["exact"].target).service == "exact"
        assert symphony.stop() == 0


def test_a_new_supervisor_that_is_told_to_stop_leaves_the_sockets_to_the_old_one(show: Showcase) -> None:
    symphony = show.symphony
    before = actors(show)
    slow = (
        f"{REAL}\nimport asyncio\nimport actors.acceptor as acceptor\nimport symphony.api.takeover as takeover\n"
        "async def wait(self):\n    await asyncio.sleep(600)\n"
        "takeover.Predecessor.await_turn = wait\n"
        "stop = acceptor.Acceptor.stop\n"
        "async def take_long(self, grace):\n    await asyncio.sleep(1)\n    await stop(self, grace)\n"
        f"acceptor.Acceptor.stop = take_long\n{START}"
    )
    with steady(show) as calls, new_version(show, slow), ThreadPoolExecutor(1) as beside:
        upgrading = beside.submit(command, symphony, "upgrade")
        wait_until(lambda: len(symphony.logged("child_ready")) == 10, "the new one is as good as ready")
        os.kill(symphony.logged("upgrading")[0]["successor"], signal.SIGTERM)
        assert upgrading.result().returncode == 1
        calls.wait_answers(20)
        check_unharmed(show, before)


def test_two_upgrades_at_once(show: Showcase) -> None:
    symphony = show.symphony
    with steady(show), ThreadPoolExecutor(3) as beside:
        done = [each.result() for each in [beside.submit(command, symphony, "upgrade") for _ in range(3)]]
        assert 0 in [each.returncode for each in done]
        for each in done:
            # One that comes when the other is done finds the new one, and upgrades that.
            assert each.returncode == 0 or "has taken over" in each.stderr, each.stderr
    wait_alone(symphony)


def test_a_reload_and_an_upgrade_at_once(show: Showcase) -> None:
    symphony = show.symphony
    with steady(show), ThreadPoolExecutor(3) as beside:
        for workers in (3,):
            symphony.config_file.write_text(show.config.replace("workers = 2", f"workers = {workers}"))
            commands = [beside.submit(command, symphony, each) for each in ("reload", "upgrade", "reload")]
            for each in commands:
                done = each.result()
                assert done.returncode == 0 or "has taken over" in done.stderr, done.stderr
            status = symphony.wait_for(
                lambda status: sum(found.kind == "acceptor" for found in status.actors) == workers  # noqa: B023
            )
            assert all(found.state == "running" for found in status.actors)
            for expected in show.expected.values():
                assert expected.holds(call("python", expected.target))
        wait_alone(symphony)


@pytest.mark.parametrize("after_s", [0.0, 1.0])
def test_a_stop_in_the_middle_of_an_upgrade_and_a_reload(show: Showcase, after_s: float) -> None:
    symphony = show.symphony
    symphony.config_file.write_text(show.config.replace("workers = 2", "workers = 3"))
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "symphony", each, "--runtime-dir", str(symphony.runtime_dir)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        for each in ("upgrade", "reload")
    ]
    wait_until(lambda: bool(symphony.logged("upgrading")), "it has begun")
    time.sleep(after_s)  # wherever it is by then: that is the point of it
    serving = live_pid(str(symphony.runtime_dir))
    assert serving is not None
    os.kill(serving, signal.SIGTERM)
    wait_until(lambda: not symphony.processes(), "nothing is left of either", limit_s=30)
    for each in started:
        each.wait(20)
    symphony.wait()
    assert names(symphony) == {"lock"}
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", symphony.port()), timeout=5)
    symphony.start()
    assert symphony.stop() == 0
