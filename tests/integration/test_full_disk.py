"""A runtime directory on a disk that is full: what runs goes on, and what cannot begin says why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.acceptor import wait_until
from tests.support.calls import call
from tests.support.generations import steady
from tests.support.showcase import Showcase, running_showcase
from tests.support.upgrades import command, upgrade, wait_alone
from tools.chaos.disk import filled, mount_small_disk, unmount

FULL = "No space left on device"


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """Have a directory on a disk of a megabyte of its own."""
    if missing := mount_small_disk(directory):
        pytest.skip(missing)
    try:
        yield
    finally:
        unmount(directory)


@pytest.fixture
def show() -> Iterator[Showcase]:
    with running_showcase() as running:
        symphony = running.symphony
        assert symphony.stop() == 0
        with small_disk(symphony.runtime_dir):
            text = running.config.replace("port = 0", f"port = {symphony.port()}", 1)
            symphony.config_file.write_text(text)
            symphony.start()
            try:
                yield running
            finally:
                symphony.process.kill()
                symphony.process.wait(10)
                for process in symphony.processes():
                    process.kill()


def test_what_runs_goes_on(show: Showcase) -> None:
    symphony = show.symphony
    with filled(symphony.runtime_dir):
        text = symphony.config_file.read_text()
        symphony.config_file.write_text(text.replace("workers = 2", "workers = 2\nread_buffer_size = 65536"))
        with steady(show):
            done = command(symphony, "reload")
            assert done.returncode == 0, done.stderr
            assert symphony.logged("snapshot not stored")[-1]["reason"].endswith(FULL)
            assert command(symphony, "status").returncode == 0
        for name in ("acceptor-0", "route-registry"):
            former = symphony.kill_child(name)
            wait_until(lambda: symphony.wait_running(name).pid != former.pid, "it is back")  # noqa: B023
        for expected in show.expected.values():
            assert expected.holds(call("python", expected.target))
    assert command(symphony, "reload").returncode == 0
    assert command(symphony, "stop").returncode == 0


def test_an_upgrade_without_room_changes_nothing(show: Showcase) -> None:
    symphony, directory = show.symphony, show.symphony.runtime_dir
    with steady(show), filled(directory):
        done = command(symphony, "upgrade")
        if done.returncode:  # where names take no room on the disk, there is enough
            assert done.returncode == 1 and FULL in done.stderr, done.stderr
            assert symphony.serving_pid == symphony.pid
    upgrade(symphony)
    wait_alone(symphony)
    assert command(symphony, "stop").returncode == 0


def test_a_start_without_room_works_or_says_why(show: Showcase) -> None:
    symphony = show.symphony
    assert symphony.stop() == 0
    with filled(symphony.runtime_dir):
        before = len(symphony.logged("ready"))
        symphony.spawn()
        # Names and sockets may take no room there; what has to be written does.
        wait_until(
            lambda: symphony.process.poll() is not None or len(symphony.logged("ready")) > before,
            "it works or has ended",
            limit_s=40,
        )
        if symphony.process.poll() is None:
            for expected in show.expected.values():
                assert expected.holds(call("python", expected.target))
            assert symphony.stop() == 0
        else:
            assert symphony.process.returncode == 1
            assert FULL in symphony.log.splitlines()[-1]
    symphony.start()
    assert symphony.stop() == 0
