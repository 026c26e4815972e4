"""What a process gives up so that less is lost when it goes wrong (prctl(2), core(5))."""

from __future__ import annotations

import ctypes
import os
import resource

from symphony.host.users import Account, become

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


READS_KEYS = "route-registry"
"""The one kind of child that stays who it was: it reads the keys again at every reload."""


def confine(kind: str, *, core_dumps: bool, account: Account | None) -> None:
    """Give up what a process of `kind` does not need once it runs; be `account`, if there is one."""
    if account is not None and kind != READS_KEYS:
        become(account)
    forbid_new_privileges()
    if core_dumps:
        _prctl(_PR_SET_DUMPABLE, 1)  # the kernel forbids them when the user changes
    else:
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
