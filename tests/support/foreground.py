"""A command in the foreground of a shell of its own, as somebody who follows a page has it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support.page_steps import as_shown

LIMIT_S = 40.0


class Foreground:
    """A command that stays in the foreground of a shell of its own."""

    def __init__(self, command: str, directory: Path, environment: dict[str, str], name: str = "") -> None:
        self.command = command
        self.name = name
        self.seen = 0
        self._output = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - end() closes it
        self.process = subprocess.Popen(
            ["bash", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            cwd=directory,
            env=environment,
            start_new_session=True,
        )

    @property
    def printed(self) -> str:
        """All so far."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def has_to_print(self, shown: str) -> None:
        """Wait until it has printed that after what was seen before. Raises AssertionError."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            ended = self.process.poll() is not None
            printed = self.printed
            found = as_shown(shown, printed, whole=False, since=self.seen)
            if found >= 0:
                self.seen = found
                return
            assert not ended, f"{self.command!r} ended with code {self.process.returncode}:\n{printed}"
            assert time.monotonic() < deadline, (
                f"{self.command!r} did not print\n{shown}\nbut\n{printed[self.seen :]}"
            )
            time.sleep(0.02)

    def interrupt(self) -> None:
        """Ctrl-C: the whole of the foreground gets it."""
        try:
            self._tell(signal.SIGINT)
            code = self.process.wait(LIMIT_S)
            assert code in (0, 130, -signal.SIGINT), (
                f"{self.command!r} ended with code {code}:\n{self.printed}"
            )
        finally:
            self.end()

    def end(self) -> None:
        """In whatever way it can be had."""
        if self.process.poll() is None:
            self._tell(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                pass
        self._tell(signal.SIGKILL)
        self.process.wait(10)
        self._output.close()

    def _tell(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass  # all of them have ended
