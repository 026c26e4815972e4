"""How many descriptors a configuration needs in one process, and how many the system lets it have.

The system's usual soft limit, 1024, is enough for 500 connections. It is that low for the sake of programs that use
select(2); Symphony uses epoll, so its limit is raised as far as it goes.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from symphony.config.snapshot import ListenerEntry

PER_CONNECTION = 2
"""The client's socket and the upstream's. Bytes stuck in a pipe are the exception, and can do without one."""
BESIDES = 1024
"""For all else that a process has open: listening sockets (its own and its siblings'), mailboxes, logs."""
_RESERVE = 64
"""Left for health checks, name look-ups and mailboxes, where the limit is not low altogether."""

_LARGEST_FILE = "/proc/sys/fs/nr_open"
_ADVICE = "raise it (LimitNOFILE= of a systemd unit, --ulimit nofile= of a container, ulimit -Hn of a shell)"


@dataclass(frozen=True, slots=True)
class DescriptorLimit:
    """RLIMIT_NOFILE of a process (getrlimit(2)): what is in force, and how far it may raise that itself."""

    soft: int
    hard: int


def needed(listeners: Iterable[ListenerEntry]) -> int | None:
    """How many descriptors one acceptor may come to need; None where a listener has no limit on connections.

    Connections are limited over all acceptors, and all of them may be one acceptor's.
    """
    entries = tuple(listeners)
    if not all(entry.max_connections for entry in entries):
        return None
    connections = sum(entry.max_connections for entry in entries)
    return PER_CONNECTION * connections + BESIDES


def room_for_connections() -> int:
    """How many connections this process can have open, by its limit and what it has open besides at present.

    Each of them gets the descriptors that it needs from accept to its end; some are left for all else.
    """
    soft = limit().soft
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(1, (soft - in_use() - min(_RESERVE, soft >> 4)) // PER_CONNECTION)


def limit() -> DescriptorLimit:
    """This process' limit."""
    return DescriptorLimit(*resource.getrlimit(resource.RLIMIT_NOFILE))


def in_use() -> int:
    """How many descriptors this process has open; before Linux 6.2, at least so many."""
    try:
        counted = os.stat("/proc/self/fd").st_size
    except OSError:
        counted = 0
    if counted:
        return counted
    # A directory of a million entries takes a second to read. The lowest number that is free takes nothing to find.
    try:
        lowest_free = os.dup(2)
    except OSError:  # there is none
        return limit().soft
    os.close(lowest_free)
    return lowest_free


def raise_limit(wanted: int | None) -> DescriptorLimit:
    """Raise the soft limit as far as it goes, and the hard one to `wanted` where this process may; return what is.

    For this process and those forked from it.
    """
    largest = _largest()
    now = limit()
    hard = largest if now.hard == resource.RLIM_INFINITY else min(now.hard, largest)
    if wanted is not None and wanted > hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, largest),) * 2)
        except (OSError, ValueError):  # only root may
            pass
        else:
            return limit()
    if now.soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, now.hard))
    return limit()


def shortage(listeners: Iterable[ListenerEntry]) -> str:
    """Say that this process' limit is too low for what the listeners may hold, and what to do; "" when it is not."""
    wanted = needed(listeners)
    have = limit().soft
    if wanted is None or wanted <= have:
        return ""
    fits = max(0, (have - BESIDES) // PER_CONNECTION)
    return (
        f"max_connections needs {wanted} descriptors in a process, and the hard limit is {have}, enough for {fits} "
        f"connections: {_ADVICE}, or expect connections above that to wait"
    )


def _largest() -> int:
    """No limit may be above it (proc_sys_fs(5)); "infinity" is a number that nothing could reach."""
    with open(_LARGEST_FILE) as file:
        return int(file.read())
