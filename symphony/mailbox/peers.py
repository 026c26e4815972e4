"""Who may send to a mailbox, where the processes of one instance belong to two users.

The owner is the user that started the instance, and may send everything. Workers are the processes that speak with
clients and upstreams; where the configuration names a `user` they are that user's, and may send to a mailbox only what
that mailbox takes from workers. Decided once, before the first process is forked. Otherwise all are one user.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Workers:
    """The users of an instance: its `owner`, and the workers' user and group."""

    owner: int
    uid: int
    gid: int


_workers: Workers | None = None


def set_workers(uid: int, gid: int) -> None:
    """Let workers be another user, in this process and those forked from it."""
    global _workers
    _workers = Workers(os.geteuid(), uid, gid)


def workers() -> Workers | None:
    """The users of this instance; None where all are one."""
    return _workers


def is_owner(uid: int) -> bool:
    """Whether a sender may send everything."""
    return uid == (os.geteuid() if _workers is None else _workers.owner)


def is_worker(uid: int) -> bool:
    """Whether a sender may send what mailboxes take from workers."""
    return _workers is not None and uid == _workers.uid


def may_serve(path: str, uid: int) -> bool:
    """Whether process of user `uid` may be the one that serves the mailbox at `path`.

    One of this process' own user; or any, in a directory that only this user or root could have put its socket into:
    whoever serves there was started by the owner, and may have become another user since.
    """
    if uid == os.geteuid():
        return True
    try:
        found = os.stat(os.path.dirname(path))
    except OSError:
        return False
    return found.st_uid in (0, os.geteuid()) and not stat.S_IMODE(found.st_mode) & 0o022
