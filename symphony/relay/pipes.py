"""Pipes for ``splice``: borrowed while bytes go through one, given back empty.

Two descriptors and the kernel's memory per pipe would be most of what an idle passthrough connection costs; so
a connection holds one only while bytes are stuck in it.
"""

from __future__ import annotations

import fcntl
import os

Pipe = tuple[int, int]
"""The reading and the writing descriptor."""

KEPT_AT_MOST = 64

CAPACITY = 256 * 1024
"""Bytes per pipe; the kernel's own 64 KiB makes bulk 6 % dearer."""


class PipePool:
    """Empty pipes, ready for use. Each is non-blocking on both ends."""

    __slots__ = ("_free",)

    def __init__(self) -> None:
        self._free: list[Pipe] = []

    def borrow(self) -> Pipe:
        """An empty pipe. Raises OSError when the process has no descriptor left for one."""
        if self._free:
            return self._free.pop()
        pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, CAPACITY)
        except OSError:
            pass  # beyond what the user may have (pipe-user-pages-soft): a small pipe does as well
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Take back a pipe that is empty."""
        if len(self._free) < KEPT_AT_MOST:
            self._free.append(pipe)
        else:
            discard(pipe)

    def close(self) -> None:
        """Close all that are free."""
        while self._free:
            discard(self._free.pop())


def discard(pipe: Pipe) -> None:
    """Close a pipe for good: one with another connection's bytes left in it must never be lent again."""
    os.close(pipe[0])
    os.close(pipe[1])
