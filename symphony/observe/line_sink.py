"""Where log lines go: a descriptor or a file, written to without ever waiting for it.

A pipe whose reader has stopped would stop every process that logs into it. So nothing is written that may block: a
regular file takes everything at once, and of anything else poll(2) is asked first, which promises room for at least
PIPE_BUF bytes of a pipe (pipe(7)). What cannot be written waits in a bounded queue of its process; what does not fit
there is dropped and counted, and the first line that gets through again is preceded by how many were lost.

The descriptor is shared with other processes, so O_NONBLOCK, which belongs to all who share it, is not touched.
"""

from __future__ import annotations

import mmap
import os
import select
import stat
import time
import zlib
from collections import deque
from collections.abc import Callable

WAITING_LIMIT = 1 << 20
"""Bytes of lines that wait in one process."""

RETRY_S = 0.05
_COUNTERS = 4096
LOOK_EVERY_S = 1.0
"""How often a file is looked for at its path, to see that it was moved away."""


class LineSink:
    """Writes lines to `descriptor`, or to the file at `path`, which it opens again when it was renamed or removed.

    Given both, the file is opened under the number of that descriptor: as standard error it is inherited by every
    child, and takes what others write there.

    `lost` is called with a number of lines before the next line that is written behind the gap, and returns the line
    that says so. Raises OSError when the file cannot be opened.
    """

    def __init__(
        self, *, descriptor: int = -1, path: str = "", lost: Callable[[int], str] | None = None
    ) -> None:
        if descriptor < 0 and not path:
            raise ValueError("a sink needs a descriptor or a path")
        self.path = path
        self.lost = lost
        # Shared with all processes that are forked from this one, a word for each: so what one lost outlives it.
        self._lost = memoryview(mmap.mmap(-1, _COUNTERS * 8)).cast("q")
        self._own = 0
        self._untold = 0
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._looked_at = time.monotonic()
        self._descriptor = descriptor
        self._lent = descriptor >= 0
        if path:
            self._open()
        else:
            self._examine()

    def _open(self) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        if self._descriptor >= 0:
            os.dup2(descriptor, self._descriptor, inheritable=self._lent)
            os.close(descriptor)
        else:
            self._descriptor = descriptor
        self._examine()

    def _examine(self) -> None:
        found = os.fstat(self._descriptor)
        self._identity = (found.st_dev, found.st_ino)
        self._is_file = stat.S_ISREG(found.st_mode)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)

    def isatty(self) -> bool:
        """Whether a person watches."""
        return os.isatty(self._descriptor)

    def reopen(self) -> None:
        """Open the file at the path anew; when that cannot be done, the one that is open stays in use."""
        self._looked_at = time.monotonic()
        if self.path:
            try:
                self._open()
            except OSError:
                pass  # the next look tries again; meanwhile the lines are in the file that was moved

    def write(self, text: str) -> int:
        """Write whole lines, or queue them, or drop them."""
        if self.path and time.monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._look()
        data = text.encode("utf-8", "backslashreplace")
        if not self._waiting or self.flush_waiting():
            if self._untold:
                self._tell_untold()
            if not self._waiting:
                data = self._put(data)
        if data:
            self._queue(data)
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back that could be written. Here for those who expect a stream."""

    def forget_waiting(self) -> None:
        """Leave what waits to another process: after a fork, to the parent."""
        self._waiting.clear()
        self._waiting_bytes = 0
        self._untold = 0

    def count_as(self, process: str) -> None:
        """Count lost lines as this process from now on: no two may write one word at a time."""
        self._own = zlib.crc32(process.encode()) % _COUNTERS

    @property
    def lost_by_all(self) -> int:
        """Lines lost by all processes that share this sink, those that are gone included."""
        return sum(self._lost)

    @property
    def waiting(self) -> bool:
        """Whether lines wait for room; :meth:`flush_waiting` is to be called again within :data:`RETRY_S`."""
        return bool(self._waiting)

    def flush_waiting(self) -> bool:
        """Write what waits, as far as there is room; whether nothing waits any more."""
        while self._waiting:
            data = self._waiting[0]
            rest = self._put(data)
            self._waiting_bytes -= len(data) - len(rest)
            if rest:
                self._waiting[0] = rest
                return False
            self._waiting.popleft()
        return True

    def close(self, within_s: float = 0.2) -> None:
        """Wait a moment for the room that waiting lines need, then give them up. A given descriptor stays open."""
        give_up_at = time.monotonic() + within_s
        while not self.flush_waiting() and time.monotonic() < give_up_at:
            self._poll.poll(10)
        self.forget_waiting()
        if not self._lent and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _put(self, data: bytes) -> bytes:
        """Write as much as there is room for; return what is left. Lines nobody will ever read are dropped."""
        try:
            if self._is_file:
                return data[os.write(self._descriptor, data) :]
            while data and any(event & select.POLLOUT for _, event in self._poll.poll(0)):
                data = data[os.write(self._descriptor, data[: select.PIPE_BUF]) :]
        except OSError:  # nobody reads the pipe any more, or the disk is full
            self._drop()
            return b""
        return data

    def _queue(self, data: bytes) -> None:
        if self._waiting_bytes + len(data) > WAITING_LIMIT:
            self._drop()
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)

    def _drop(self) -> None:
        self._lost[self._own] += 1
        self._untold += 1

    def _tell_untold(self) -> None:
        count, self._untold = self._untold, 0
        if self.lost is not None:
            rest = self._put(self.lost(count).encode())
            if rest:
                self._queue(rest)

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        try:
            found = os.stat(self.path)
        except OSError:
            self.reopen()
            return
        if (found.st_dev, found.st_ino) != self._identity:
            self.reopen()
