"""Locks in shared memory that a process which is killed lets go.

They are the C library's robust mutexes (pthread_mutexattr_setrobust(3)): the kernel knows which of them a process
holds, and marks them when it dies, however it dies. Whoever takes such a lock next has it as if nothing had happened,
so what a lock guards must make sense after every single store. Taking one that is free is one atomic instruction, and
no system call. Nobody ever sleeps for one: who does not get it in a few tries comes back later.

Of one process, only one thread may use them. While it holds one, the memory has to stay where it is.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys

LOCK_SIZE = 64
"""Bytes for one lock: no C library of a 64-bit Linux needs more than 48, and two are never in one cache line."""

_ATTRIBUTES_SIZE = 64
_SHARED = 1  # PTHREAD_PROCESS_SHARED, in glibc and musl
_ROBUST = 1  # PTHREAD_MUTEX_ROBUST
_TRIES = 60
"""Some 15 us: three times as long as anybody needs a lock who is not interrupted."""

# Not CDLL: to let the interpreter's lock go and take it again would cost more than the call.
_libc = ctypes.PyDLL(None)
_try_lock = _libc.pthread_mutex_trylock
_unlock = _libc.pthread_mutex_unlock


class SharedLocks:
    """A row of `count` locks at `offset` of `memory`, which is shared and zeroed. Made before the fork."""

    __slots__ = ("_addresses", "_array")

    def __init__(self, memory: mmap.mmap, offset: int, count: int) -> None:
        self._array = (ctypes.c_char * (LOCK_SIZE * count)).from_buffer(memory, offset)
        start = ctypes.addressof(self._array)
        self._addresses = [ctypes.c_void_p(start + LOCK_SIZE * index) for index in range(count)]
        attributes = ctypes.create_string_buffer(_ATTRIBUTES_SIZE)
        _check(_libc.pthread_mutexattr_init(attributes))
        _check(_libc.pthread_mutexattr_setpshared(attributes, _SHARED))
        _check(_libc.pthread_mutexattr_setrobust(attributes, _ROBUST))
        for address in self._addresses:
            _check(_libc.pthread_mutex_init(address, attributes))
        _check(_libc.pthread_mutexattr_destroy(attributes))

    def __len__(self) -> int:
        return len(self._addresses)

    def take(self, index: int) -> bool:
        """Take a lock; False when somebody has had it for longer than he should need it."""
        found = _try_lock(self._addresses[index])
        return not found or self._insist(self._addresses[index], found)

    def give_back(self, index: int) -> None:
        """Give a lock back that was taken."""
        result = _unlock(self._addresses[index])
        if result:
            _check(result)

    def _insist(self, address: ctypes.c_void_p, found: int) -> bool:
        """Go on trying after a first try that gave `found`."""
        tries = 0
        while found == errno.EBUSY and tries < _TRIES:
            found = _try_lock(address)
            tries += 1
        if found == errno.EOWNERDEAD:
            found = _libc.pthread_mutex_consistent(address)
        if found and found != errno.EBUSY:
            _check(found)
        return not found

    def take_all(self) -> bool:
        """Take every lock, or none and return False."""
        for index in range(len(self._addresses)):
            if not self.take(index):
                for taken in range(index):
                    self.give_back(taken)
                return False
        return True

    def give_all_back(self) -> None:
        """Give every lock back."""
        for index in range(len(self._addresses)):
            self.give_back(index)


def _check(result: int) -> None:
    if result:
        raise OSError(result, f"a lock in shared memory: {os.strerror(result)}")


assert sys.maxsize > 1 << 32, "the size of a lock is known for 64-bit machines"
