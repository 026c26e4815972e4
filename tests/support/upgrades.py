"""Upgrades of a running showcase, by versions of the program that a test writes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from symphony.mailbox.address import live_pid
from tests.support.acceptor import wait_until
from tests.support.calls import call
from tests.support.showcase import Showcase, running_showcase
from tests.support.symphony_process import SymphonyProcess, run_symphony

# What the program's new version begins with, in the place of its own package: python -m looks there first.
REAL = """
import os, sys, time
sys.path.remove(os.getcwd())
for name in [name for name in sys.modules if name.startswith("symphony")]:
    del sys.modules[name]
"""
START = "from symphony.cli.main import main\nmain()\n"


def command(symphony: SymphonyProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the version that is installed, whatever stands in the instance's directory."""
    directory = str(symphony.runtime_dir)
    return run_symphony(*arguments, "--runtime-dir", directory, cwd=Path("/"), timeout_s=60.0)


def upgrade(symphony: SymphonyProcess) -> int:
    """Upgrade by command; return the new supervisor's pid."""
    done = command(symphony, "upgrade")
    assert done.returncode == 0, done.stdout + done.stderr + symphony.log[-4000:]
    assert done.stdout.startswith(f"process {symphony.serving_pid} has taken over")
    return symphony.serving_pid


def wait_alone(symphony: SymphonyProcess) -> None:
    """Wait until nothing is left of the instances that were upgraded from."""
    serving = psutil.Process(symphony.serving_pid)

    def alone() -> bool:
        family = {serving.pid, *(child.pid for child in serving.children(recursive=True))}
        return {process.pid for process in symphony.processes()} == family

    wait_until(alone, "only the processes of the one that serves are left")


@contextmanager
def upgradable_showcase() -> Iterator[Showcase]:
    """A showcase that runs: at the end only the processes of the instance that serves are left, or none at all."""
    with running_showcase() as running:
        yield running
        if live_pid(str(running.symphony.runtime_dir)) is None:
            wait_until(lambda: not running.symphony.processes(), "nothing is left")
        else:
            wait_alone(running.symphony)


def names(symphony: SymphonyProcess) -> set[str]:
    return {path.name for path in symphony.runtime_dir.iterdir()}


@contextmanager
def new_version(show: Showcase, text: str) -> Iterator[None]:
    """Have an upgrade start this program instead of the one that is installed."""
    package = show.symphony.directory / "symphony"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(text)
    try:
        yield
    finally:
        for path in [*package.rglob("*.py"), *package.rglob("*.pyc")]:
            path.unlink()


def check_unharmed(show: Showcase, pids: dict[str, int | None]) -> None:
    """The first instance goes on as if nothing had happened, and can still be upgraded, reloaded and stopped."""
    symphony = show.symphony
    assert symphony.serving_pid == symphony.pid
    status = symphony.status()
    assert {found.name: found.pid for found in status.actors} == pids
    assert [found.restarts for found in status.actors] == [0] * len(pids)
    assert command(symphony, "reload").returncode == 0
    for expected in show.expected.values():
        assert expected.holds(call("python", expected.target))


def actors(show: Showcase) -> dict[str, int | None]:
    return {found.name: found.pid for found in show.symphony.status().actors}
