"""Load by ``wrk``, in short rounds without end, and the sum of what it has to say.

In rounds, since connections that are kept belong to the acceptors that took them: those of an earlier generation last
until the client ends them, or until `drain_timeout_ms` is over and they are cut. No proxy that passes bytes on can end
them in a better way. So a client that keeps connections is given time to end them itself.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

_AFTER_S = 30.0
_COUNTED = {
    "requests": r"(\d+) requests in",
    "not 2xx": r"Non-2xx or 3xx responses: (\d+)",
    "connect": r"Socket errors: connect (\d+)",
    "read": r"Socket errors: .*read (\d+)",
    "write": r"Socket errors: .*write (\d+)",
    "timeout": r"Socket errors: .*timeout (\d+)",
}


@dataclass
class Sum:
    """What all rounds have counted; `failed` are rounds that did not work at all."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0))
    rounds: int = 0
    failed: list[str] = field(default_factory=list)

    def add(self, output: str) -> None:
        """Add a round's report."""
        self.rounds += 1
        for name, pattern in _COUNTED.items():
            found = re.search(pattern, output)
            self.counts[name] += int(found[1]) if found else 0

    @property
    def errors(self) -> int:
        """Everything that should not have been."""
        return sum(count for name, count in self.counts.items() if name != "requests") + len(self.failed)


class Load:
    """Runs ``wrk`` against `url` for `round_s` seconds, again and again between :meth:`resume` and :meth:`pause`."""

    def __init__(self, url: str, round_s: int, connections: int, *options: str) -> None:
        self.sum = Sum()
        self._limit_s = round_s + _AFTER_S
        self._command: Sequence[str] = (
            "wrk", "-t1", f"-c{connections}", f"-d{round_s}s", "--timeout", "10s", *options, url,
        )  # fmt: skip
        self._on = threading.Event()
        self._thread: threading.Thread | None = None

    def resume(self) -> None:
        """Begin, or go on."""
        if self._thread is None:
            self._on.set()
            self._thread = threading.Thread(target=self._run, name="wrk")
            self._thread.start()

    def pause(self) -> None:
        """Wait for the end of the round, and begin no other."""
        self._on.clear()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while self._on.is_set():
            try:
                done = subprocess.run(  # noqa: S603 - our own command line
                    self._command,
                    capture_output=True,
                    text=True,
                    timeout=self._limit_s,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                self.sum.failed.append("a round did not end")
                continue
            if done.returncode or " requests in " not in done.stdout:
                self.sum.failed.append(f"exit code {done.returncode}: {done.stdout}{done.stderr}")
                return
            self.sum.add(done.stdout)
