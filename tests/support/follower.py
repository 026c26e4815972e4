"""A ``symphony`` command that stays and prints events, read line by line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tests.support.acceptor import wait_until
from tests.support.symphony_process import SymphonyProcess

ENDS_WITHIN_S = 15.0


class Follower:
    """Runs the command with `arguments`, until the end of the ``with`` block or of the instance."""

    def __init__(self, symphony: SymphonyProcess, *arguments: str) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "symphony", *arguments, "--runtime-dir", str(symphony.runtime_dir)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines as JSON objects."""
        return [json.loads(line) for line in self.lines]

    def wait(self, condition: Callable[[list[dict[str, Any]]], Any], what: str) -> None:
        """Wait until `condition` is true of the events so far."""
        wait_until(lambda: condition(self.events), f"{what}; so far: {self.lines}")

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Wait for the end, after a signal if given; return the exit code and what was said on standard error."""
        if number is not None:
            self._process.send_signal(number)
        code = self._process.wait(ENDS_WITHIN_S)
        self._reading.join(ENDS_WITHIN_S)
        assert self._process.stderr is not None
        return code, self._process.stderr.read()

    def __enter__(self) -> Follower:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._reading.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
