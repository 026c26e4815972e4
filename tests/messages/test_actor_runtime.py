"""What every actor's process has in common, tried with small actors of its own."""

from __future__ import annotations

import asyncio
import time

import pytest

from actors.runtime import Actor, Birth, CannotRun, run_actor
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.server import MailboxServer
from symphony.messages.sampler import CpuReport, DescribeSampler
from tests.support.actor_process import LIMIT_S, ActorProcess, Stage


class Example(Actor):
    """Logs what happens to it; `trouble` says what goes wrong."""

    def __init__(self, stage: Stage, trouble: str = "") -> None:
        self.mailbox = MailboxServer(
            mailbox_path(stage.runtime_dir, "example"), DescribeSampler, lambda *_: CpuReport(())
        )
        self.trouble = trouble
        self.own_grace_s = 3.0
        self.log_path = stage.file("example.txt")

    def note(self, text: str) -> None:
        with open(self.log_path, "a") as file:
            file.write(f"{text}\n")

    async def start(self) -> None:
        self.note("start")
        match self.trouble:
            case "cannot run":
                raise CannotRun("the thing is missing")
            case "start fails":
                raise RuntimeError("a mistake")
            case "start hangs":
                await asyncio.sleep(600)

    async def stop(self, grace: float) -> None:
        self.note(f"stop {grace:.0f}")
        if self.trouble == "stop hangs":
            await asyncio.sleep(600)
        self.note("stopped")

    def sibling(self, name: str, up: bool) -> None:
        self.note(f"{name} {'up' if up else 'down'}")

    def depth(self) -> int:
        return 42


def start(stage: Stage, trouble: str = "", ready: bool = True) -> ActorProcess:
    def run(birth: Birth, settings: object) -> None:
        run_actor(birth, lambda: Example(stage, trouble))

    return stage.start("example", run, None, ready=ready)


def notes(stage: Stage) -> list[str]:
    with open(stage.file("example.txt")) as file:
        return file.read().splitlines()


def wait_note(stage: Stage, text: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            if text in notes(stage):
                return
        except FileNotFoundError:
            pass
        assert time.monotonic() < deadline, f"no {text!r}"
        time.sleep(0.005)


def test_life(stage: Stage) -> None:
    process = start(stage)
    deadline = time.monotonic() + LIMIT_S
    while process.wait_beat().depth != 42:
        assert time.monotonic() < deadline
    process.tell_sibling("acceptor-1", False)
    process.tell_sibling("acceptor-1", True)
    wait_note(stage, "acceptor-1 up")
    process.ask_to_stop(7.0)
    assert process.wait_exit() == 0
    assert notes(stage) == ["start", "acceptor-1 down", "acceptor-1 up", "stop 7", "stopped"]


def test_own_grace(stage: Stage) -> None:
    process = start(stage)
    process.orphan()
    assert process.wait_exit() == 0
    assert notes(stage) == ["start", "stop 3", "stopped"]


def test_a_stop_that_takes_too_long_is_cut_short(stage: Stage) -> None:
    process = start(stage, "stop hangs")
    began = time.monotonic()
    process.ask_to_stop(0.3)
    assert process.wait_exit() == 0
    assert 0.25 < time.monotonic() - began < 10
    assert "stopped before everything was finished" in process.log()


def test_a_second_stop_ends_at_once_and_a_longer_one_changes_nothing(stage: Stage) -> None:
    process = start(stage, "stop hangs")
    process.ask_to_stop(500.0)
    wait_note(stage, "stop 500")
    process.ask_to_stop(900.0)
    process.ask_to_stop(0.0)
    assert process.wait_exit(5.0) == 0


def test_stop_during_start(stage: Stage) -> None:
    process = start(stage, "start hangs", ready=False)
    wait_note(stage, "start")
    process.ask_to_stop(5.0)
    assert process.wait_exit(5.0) == 0
    assert notes(stage) == ["start", "stop 5", "stopped"]


@pytest.mark.parametrize(
    ("trouble", "reason", "traceback"),
    [("cannot run", "the thing is missing", False), ("start fails", "RuntimeError: a mistake", True)],
)
def test_trouble_at_start(stage: Stage, trouble: str, reason: str, traceback: bool) -> None:
    process = start(stage, trouble, ready=False)
    assert process.wait_failed() == reason
    assert process.wait_exit() == 1
    assert ("Traceback" in process.log()) == traceback
