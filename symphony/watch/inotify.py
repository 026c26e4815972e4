"""The kernel's own notice of changes in directories (inotify(7)): a descriptor that an event loop can watch.

Through libc by ctypes: it takes two functions, and no thread that wakes up to look.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator

_EVENT = struct.Struct("iIII")  # wd, mask, cookie, length of the name that follows
_IN_MODIFY = 0x002
_IN_ATTRIB = 0x004
_IN_CLOSE_WRITE = 0x008
_IN_MOVED_FROM = 0x040
_IN_MOVED_TO = 0x080
_IN_CREATE = 0x100
_IN_DELETE = 0x200
_IN_ONLYDIR = 0x01000000
_CHANGES = (
    _IN_MODIFY
    | _IN_ATTRIB
    | _IN_CLOSE_WRITE
    | _IN_MOVED_FROM
    | _IN_MOVED_TO
    | _IN_CREATE
    | _IN_DELETE
    | _IN_ONLYDIR
)
_BUFFER = 65536

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


class Inotify:
    """Tells of changes to the entries of directories. Raises OSError when the user has too many of them already."""

    def __init__(self) -> None:
        self.fd: int = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def add(self, directory: str) -> int:
        """Watch `directory`; return its number, the same one for the same directory however it is named.

        Raises OSError: it is not there, may not be read, or is one too many.
        """
        return _checked(_libc.inotify_add_watch(self.fd, os.fsencode(directory), _CHANGES))

    def remove(self, number: int) -> None:
        """Watch a directory no more; nothing when the kernel has forgotten it already."""
        _libc.inotify_rm_watch(self.fd, number)

    def read(self) -> Iterator[tuple[int, str]]:
        """Yield the (directory's number, entry's name) of each change since; (-1, "") when some were lost."""
        while True:
            try:
                data = os.read(self.fd, _BUFFER)
            except BlockingIOError:
                return
            yield from parse_events(data)

    def close(self) -> None:
        """Forget all."""
        os.close(self.fd)


def parse_events(data: bytes) -> Iterator[tuple[int, str]]:
    """Yield the (directory's number, entry's name) of each event in what the kernel has written."""
    at = 0
    while at < len(data):
        number, _, _, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        yield number, os.fsdecode(data[at : at + length].rstrip(b"\0"))
        at += length


def _checked(returned: int) -> int:
    if returned < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return returned
