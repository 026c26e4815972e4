"""Memory that a process shares with those it forks, and can hand on to one that it did not."""

from __future__ import annotations

import mmap
import os
import weakref


class UnusableMemory(Exception):
    """Memory that was handed on is not what it should be; the text is one line that says why."""


def share(name: str, size: int) -> tuple[mmap.mmap, int]:
    """Return `size` bytes of zeros, and a descriptor of them that stays open as long as the mapping is referred to.

    They take memory as they are used. `name` is what the kernel shows of it. Raises OSError.
    """
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    return _map(descriptor, size)


def attach(descriptor: int, size: int) -> tuple[mmap.mmap, int]:
    """Map what another process has shared, and take over its descriptor, which is closed when that cannot be done.

    Raises :class:`UnusableMemory`.
    """
    try:
        found = os.fstat(descriptor).st_size
        if found != size:
            raise UnusableMemory(f"it has {found} bytes, expected {size}")
        return _map(descriptor, size)
    except (OSError, ValueError) as error:
        os.close(descriptor)
        raise UnusableMemory(f"it cannot be mapped: {error}") from error
    except UnusableMemory:
        os.close(descriptor)
        raise


def _map(descriptor: int, size: int) -> tuple[mmap.mmap, int]:
    mapping = mmap.mmap(descriptor, size)
    # Not at the interpreter's end: a forked process has long closed this descriptor, and its number may be another's.
    weakref.finalize(mapping, os.close, descriptor).atexit = False
    return mapping, descriptor
