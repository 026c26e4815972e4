"""Start a program on given cores and stop it, with all that it started, by pid."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tools.bench import cpu

STOP_DEADLINE_S = 10.0


class StartFailed(Exception):
    """A program ended before it was ready, or was not ready in time; says why."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one for this program and its children; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Program:
    """A started program: the root process and whatever it forked."""

    def __init__(self, name: str, command: Sequence[str], log: Path, cores: set[int] | None) -> None:
        """Start it; output goes to `log`. `cores` None lets it run anywhere."""
        self.name = name
        self.log = log
        # Affinity is inherited, so it is set here for the moment of the start: a preexec function is not safe in a
        # program with threads, and the progress display has one.
        before = os.sched_getaffinity(0)
        setpriv = shutil.which("setpriv")
        prefix = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
        with log.open("ab") as output:
            if cores is not None:
                os.sched_setaffinity(0, cores)
            try:
                self._process = subprocess.Popen(  # noqa: S603
                    [*prefix, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            finally:
                os.sched_setaffinity(0, before)

    @property
    def pid(self) -> int:
        """The root process."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def pids(self) -> list[int]:
        """All processes of the program, sorted."""
        return cpu.tree(self.pid)

    def tail(self, lines: int = 4) -> str:
        """The last lines of its output on one line, for a report."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip())

    def stop(self) -> None:
        """SIGTERM to the root; SIGKILL to everything that is left after the deadline. Safe to call twice."""
        known = {pid: cpu.start_time(pid) for pid in self.pids()}
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        told = False
        deadline = time.monotonic() + STOP_DEADLINE_S
        while time.monotonic() < deadline:
            for pid in self.pids():
                known.setdefault(pid, cpu.start_time(pid))
            left = _alive(known)
            if self._process.poll() is not None:
                if not left:
                    return
                if not told:  # children that outlive their parent have nobody else to tell them
                    _signal(left, signal.SIGTERM)
                    told = True
            time.sleep(0.005)
        _signal(_alive(known), signal.SIGKILL)
        self._process.wait()


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _alive(known: dict[int, int | None]) -> list[int]:
    """Return the pids that still are the processes which were noted: a pid may have been given to another."""
    return [pid for pid, started in known.items() if started is not None and cpu.start_time(pid) == started]
