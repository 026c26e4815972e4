"""The chaos tool: a short run keeps every promise, and a harm that it did not do itself is seen."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    "kill,kill-all,kill-in-reload,kill-with-backlog,replace-acceptors,upgrade,hang,crash-loop,"
    "starve-descriptors,fill-disk,flood-garbage,flood-valid"
)


def chaos(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "tools.chaos", "--untimed", "--workers", "2", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
    )


@pytest.mark.timeout(180)
def test_a_short_run_keeps_every_promise() -> None:
    arguments = [
        "--seed",
        "7",
        "--steps",
        str(len(SHORT.split(","))),
        "--only",
        SHORT,
        "--connections",
        "500",
    ]
    with chaos(*arguments) as process:
        try:
            output, _ = process.communicate(timeout=170)
        finally:
            process.terminate()  # it sees to its tree
    assert process.returncode == 0, output
    assert "every promise kept" in output
    for harm in SHORT.split(","):
        assert re.search(rf"\d+  {harm} ", output), output


@pytest.mark.timeout(120)
def test_harm_by_somebody_else_is_seen() -> None:
    """Its traffic notices a death that is none of its own: what it does not explain is a broken promise."""
    with chaos("--seed", "1", "--minutes", "0", "--connections", "0") as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"symphony run is process (\d+)", line):
                kill_an_acceptor(int(found[1]))
        assert process.wait(60) == 1, lines
    assert any("NOT KEPT: Open connections of other processes" in line for line in lines), lines


def kill_an_acceptor(supervisor: int) -> None:
    """Kill the acceptor that holds most connections, once there are some."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        held = {
            child.pid: len(child.net_connections("tcp"))
            for child in psutil.Process(supervisor).children()
            if "acceptor" in "".join(child.cmdline())
        }
        busiest = max(held, key=held.__getitem__, default=0)
        if held and held[busiest] > 8:
            os.kill(busiest, signal.SIGKILL)
            return
        time.sleep(0.02)
    raise AssertionError("no acceptor holds connections")
