"""A ``symphony drain`` that waits for connections to end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.acceptor import wait_until
from tests.support.symphony_process import SymphonyProcess

WITHIN_S = 20.0


class DrainCommand:
    """Its process, and the lines that it has printed so far."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def lines(self) -> list[str]:
        return self._output.read_text().splitlines()

    def wait_line(self, line: str) -> None:
        wait_until(lambda: line in self.lines, f"it prints {line!r}", limit_s=WITHIN_S)

    def end(self) -> tuple[int, list[str]]:
        """Wait until it ends; return its code and what it printed."""
        code = self.process.wait(WITHIN_S)
        return code, self.lines


@contextmanager
def draining(symphony: SymphonyProcess, *arguments: str) -> Iterator[DrainCommand]:
    """Run the command beside the block."""
    output = symphony.directory / f"drain-{len(list(symphony.directory.glob('drain-*')))}"
    # Not in the instance's directory: a test may have put another version of the program there.
    command = [sys.executable, "-m", "symphony", "drain", *arguments]
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--runtime-dir", str(symphony.runtime_dir)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd="/",
        )
    try:
        yield DrainCommand(process, output)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
