"""Files as they were read, and whether they would read the same now."""

from __future__ import annotations

import hashlib
import os
import stat
import time

from msgspec import Struct

_SETTLED_NS = 50_000_000
"""File systems keep times in ticks of some milliseconds: a file changed twice in one tick looks changed once."""

Look = tuple[int, int, int, int]


class SeenFile(Struct, frozen=True):
    """One file as it was read, up to `limit` bytes.

    `look` (device, inode, size, time of change) tells without reading whether it may have changed; None when it could
    not be read, or was so young that its look says nothing. `digest` is of its content, empty when there was none.
    """

    path: str
    limit: int
    look: Look | None = None
    digest: bytes = b""


class Sightings:
    """The files of one load, in the order in which they were read. `files` has each path once."""

    def __init__(self) -> None:
        self._files: dict[str, SeenFile] = {}

    @property
    def files(self) -> tuple[SeenFile, ...]:
        """All of them."""
        return tuple(self._files.values())

    def miss(self, path: str, limit: int) -> None:
        """The file at `path` is about to be read: nothing is known of it until :meth:`note`."""
        path = os.path.abspath(path)
        self._files[path] = SeenFile(path, limit)

    def note(self, path: str, limit: int, status: os.stat_result, content: bytes) -> None:
        """`content`, of at most `limit` + 1 bytes, was read from the file at `path` that `status` is of."""
        path = os.path.abspath(path)
        self._files[path] = _seen(path, limit, status, content)


def look_again(seen: SeenFile) -> SeenFile | None:
    """Return `seen`, its look brought up to date, while the file has the same content; None when it has changed."""
    try:
        if seen.look is not None and _look(os.stat(seen.path)) == seen.look:
            return seen
        # Without O_NONBLOCK, opening a named pipe waits until somebody writes to it.
        descriptor = os.open(seen.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None if seen.digest else seen
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None if seen.digest else seen
        with open(descriptor, "rb", closefd=False) as file:
            now = _seen(seen.path, seen.limit, status, file.read(seen.limit + 1))
    except OSError:
        return None if seen.digest else seen
    finally:
        os.close(descriptor)
    return now if now.digest == seen.digest else None


def _seen(path: str, limit: int, status: os.stat_result, content: bytes) -> SeenFile:
    settled = time.time_ns() - status.st_mtime_ns > _SETTLED_NS
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return SeenFile(path, limit, _look(status) if settled else None, digest)


def _look(status: os.stat_result) -> Look:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
