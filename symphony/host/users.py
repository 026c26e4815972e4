"""Another user for the processes that speak with the world: found by name, and become for good."""

from __future__ import annotations

import grp
import os
import pwd

from msgspec import Struct


class UnknownAccount(Exception):
    """No such user or group on this machine; `key` is the one that names it, the text says what is wrong."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


class Account(Struct, frozen=True):
    """A user with its groups; `groups` are the supplementary ones."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def find_account(user: str, group: str | None) -> Account:
    """Look up `user` and, instead of its own primary one, `group`; both by name or number.

    Raises :class:`UnknownAccount`.
    """
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise UnknownAccount("user", f"there is no user {user} on this machine") from None
    gid = entry.pw_gid
    if group is not None:
        try:
            gid = (grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)).gr_gid
        except (KeyError, OverflowError):
            raise UnknownAccount("group", f"there is no group {group} on this machine") from None
    return Account(entry.pw_uid, gid, tuple(os.getgrouplist(entry.pw_name, gid)))


def become(account: Account) -> None:
    """Be `account` from now on, with no way back. Raises OSError, and RuntimeError when there is a way back."""
    os.setgroups(account.groups)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    if account.uid:
        try:
            os.setuid(0)
        except PermissionError:
            return
        raise RuntimeError("could become root again")
