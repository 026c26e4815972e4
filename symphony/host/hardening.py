"""What a process gives up so that less is lost when it goes wrong (prctl(2), core(5))."""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


def confine(kind: str, *, core_dumps: bool) -> None:
    """Give up what no process of the tree needs, whatever its `kind`, once it runs."""
    forbid_new_privileges()
    if not core_dumps:
        forbid_dumps()


def forbid_dumps() -> None:
    """Keep this process' memory, and so its keys, out of core dumps and away from debuggers of the same user.

    The limit alone would not do: a dump that the kernel pipes to a program is not held back by it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _prctl(_PR_SET_DUMPABLE, 0)


def forbid_new_privileges() -> None:
    """No program that this process starts gains rights by its file: no set-user-id, no capabilities."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
