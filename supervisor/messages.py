"""The supervisor's mailbox."""

from __future__ import annotations

from msgspec import Struct

from symphony.mailbox.envelope import Refused


class DescribeTree(Struct, frozen=True, array_like=True, tag=True):
    """Ask for :class:`TreeDescription`."""


class StopTree(Struct, frozen=True, array_like=True, tag=True):
    """Stop everything within `grace_s` seconds; sent a second time: at once. Answered by :class:`Stopping`."""

    grace_s: float


class ChildDescription(Struct, frozen=True, array_like=True):
    """One child. `pid` is 0 while it has no process; `depth` is how many requests wait in its mailbox.

    `restarts` counts the processes it has had, but for the first; `last_exit` is empty before the first end.
    """

    name: str
    kind: str
    group: str
    pid: int
    state: str
    restarts: int
    uptime_s: float
    depth: int
    last_exit: str


class TreeDescription(Struct, frozen=True, array_like=True, tag=True):
    """The supervisor and its children, in start order. `started_at` is in seconds since the epoch."""

    pid: int
    started_at: float
    children: tuple[ChildDescription, ...]


class Stopping(Struct, frozen=True, array_like=True, tag=True):
    """The stop has begun."""


TreeRequest = DescribeTree | StopTree
TreeReply = TreeDescription | Stopping | Refused
