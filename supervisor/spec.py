"""What a supervisor is told to run: children and groups of them, in the terms of Erlang/OTP's supervisor."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias


class SpecError(ValueError):
    """A specification that no supervisor could carry out."""


class ChangeRefused(Exception):
    """A tree that runs cannot be changed as it was asked to; the text is one line that says why."""


class Restart(StrEnum):
    """When an ended child is started again: always, only after an abnormal end, never."""

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    TEMPORARY = "temporary"


class Strategy(StrEnum):
    """Who is started again with a child that ended: nobody else, everybody, everybody started after it."""

    ONE_FOR_ONE = "one_for_one"
    ONE_FOR_ALL = "one_for_all"
    REST_FOR_ONE = "rest_for_one"


Confine: TypeAlias = Callable[[str], None]
"""Gives up what a child of a kind does not need, in the child's own process."""


@dataclass(frozen=True, slots=True)
class Birth:
    """What a child is given: its name, how many lives it had before this one plus one, its end of the lifeline.

    `confine` gives up rights that the child needs at its beginning only; the child is to call it as soon as it has what
    it could not get afterwards, and must not go on when it raises.
    """

    name: str
    incarnation: int
    lifeline: socket.socket
    confine: Callable[[], None]


@dataclass(frozen=True, slots=True)
class BackoffSpec:
    """How long restarts wait: the first not at all, the second `first_s`, then twice as long each, to `limit_s`.

    A child that was ready for `reset_after_s` begins anew.
    """

    first_s: float = 0.05
    limit_s: float = 5.0
    reset_after_s: float = 5.0

    def __post_init__(self) -> None:
        if not (0 < self.first_s <= self.limit_s and self.reset_after_s >= 0):
            raise SpecError(f"back-off needs 0 < first_s <= limit_s and reset_after_s >= 0: {self}")


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One process.

    `run` is called in the forked child and its return is a normal end; it must say ChildReady over the lifeline
    within `start_timeout_s`. `kind` is a label for descriptions. A child asked to stop is killed after `shutdown_s`
    (0: at once, without asking); the grace it is told is a little shorter. With `heartbeat_timeout_s`, a ready
    child that says nothing over its lifeline for so long is killed and replaced. All inherited descriptors but the
    standard ones and `keep_fds` are closed in the child; its standard input is empty.
    """

    name: str
    kind: str
    run: Callable[[Birth], None]
    title: str
    restart: Restart = Restart.PERMANENT
    shutdown_s: float = 5.0
    start_timeout_s: float = 10.0
    heartbeat_timeout_s: float | None = None
    keep_fds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            raise SpecError("a child needs a name")
        silence = self.heartbeat_timeout_s
        # Asked this way round, NaN is refused as well.
        if not (self.shutdown_s >= 0 and self.start_timeout_s > 0 and (silence is None or silence > 0)):
            raise SpecError(f"child {self.name}: times must be positive (shutdown_s may be 0)")


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """Children started in order and stopped in reverse order.

    More than `intensity` restarts within `period_s` seconds end the group; `restart` says what its parent then
    does. `backoff` is that of its children. With `stop_together` all children are asked to stop at the same time
    instead of one after the other, as OTP does for children that are all alike.
    """

    name: str
    children: tuple[ChildSpec | GroupSpec, ...]
    strategy: Strategy = Strategy.ONE_FOR_ONE
    intensity: int = 5
    period_s: float = 10.0
    restart: Restart = Restart.PERMANENT
    backoff: BackoffSpec = field(default_factory=BackoffSpec)
    stop_together: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise SpecError("a group needs a name")
        if not (self.intensity >= 0 and self.period_s > 0):
            raise SpecError(f"group {self.name}: intensity must not be negative, period_s must be positive")
        names = [node.name for node in self.walk()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SpecError(f"group {self.name}: names must be unique in the tree: {', '.join(twice)}")

    def walk(self) -> Iterator[ChildSpec | GroupSpec]:
        """Yield this group and everything in it, in start order."""
        yield self
        for child in self.children:
            if isinstance(child, GroupSpec):
                yield from child.walk()
            else:
                yield child
