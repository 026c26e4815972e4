"""The mailbox of the process that supervises the others, for what concerns the proxy as a whole.

What concerns the processes alone (which there are, stop them all) is asked of the supervisor's mailbox beside it.
"""

from __future__ import annotations

from msgspec import Struct

from symphony.config.problem import Problem
from symphony.mailbox.envelope import Refused
from symphony.messages.totals import DescribeTotals, TotalsDescription


class ReloadService(Struct, frozen=True, array_like=True, tag=True):
    """Read the configuration file again, and serve as it says; answered by :class:`ServiceReloaded`."""


class UpgradeService(Struct, frozen=True, array_like=True, tag=True):
    """Start a new supervisor, of the code and configuration of now, and let it take over.

    Answered by :class:`ServiceUpgraded` or :class:`UpgradeRefused`.
    """


class DrainService(Struct, frozen=True, array_like=True, tag=True):
    """Let nobody in any more: on one listener (its id or its address), or anywhere (""), and then end.

    What is still open after `timeout_s` seconds is cut; None stands for the configuration's time where all is to end,
    and for no limit where one listener is. Answered at once, by :class:`DrainBegun`.
    """

    listener: str = ""
    timeout_s: float | None = None


class AwaitDrained(Struct, frozen=True, array_like=True, tag=True):
    """Ask for :class:`Drained` when there is no connection left on `listener` (or anywhere), which drains."""

    listener: str = ""


class ResumeListener(Struct, frozen=True, array_like=True, tag=True):
    """Let clients in again on a listener that drains; answered by :class:`ListenerResumed`."""

    listener: str


class DescribeService(Struct, frozen=True, array_like=True, tag=True):
    """Ask for :class:`ServiceDescription`."""


class ServiceReloaded(Struct, frozen=True, array_like=True, tag=True):
    """What came of a reload.

    `changed` is false when the file said what is already served, or could not be used at all. `kept` names the routes
    that stay at their last good version. A problem that is an error has kept something from being applied. `acceptors`
    are the new ones, when it took new ones. `failure` is why the new ones did not start; the others then serve on.
    `behind` are acceptors that do not serve `version` yet, for which the answer has waited in vain.
    """

    file: str
    version: int
    changed: bool
    kept: tuple[str, ...]
    problems: tuple[Problem, ...]
    acceptors: tuple[str, ...] = ()
    failure: str = ""
    behind: tuple[str, ...] = ()


class ServiceUpgraded(Struct, frozen=True, array_like=True, tag=True):
    """Process `pid` has taken over; the answering one only finishes the connections that it has."""

    pid: int


class UpgradeRefused(Struct, frozen=True, array_like=True, tag=True):
    """The answering process serves on as before; `configuration`: because of what the configuration says now."""

    reason: str
    configuration: bool


class DrainBegun(Struct, frozen=True, array_like=True, tag=True):
    """Nobody is let in any more. `connections` are open still, and cut after `timeout_s` seconds (None: never).

    `address` is the listener's, "" where everything drains.
    """

    address: str
    connections: int
    timeout_s: float | None


class Drained(Struct, frozen=True, array_like=True, tag=True):
    """No connection is left; `cut` of them did not end in time."""

    cut: int


class ListenerResumed(Struct, frozen=True, array_like=True, tag=True):
    """The listener at `address` takes connections again, but for acceptors that are `behind`: they did not answer."""

    address: str
    behind: tuple[str, ...] = ()


class LeftOver(Struct, frozen=True, array_like=True):
    """An earlier supervisor that has been taken over from, and how many connections its acceptors still have."""

    pid: int
    connections: int


class ListenerDescription(Struct, frozen=True, array_like=True):
    """A listener over all acceptors. `address` is as bound; `blocked` maps a reason to refused connections.

    `state` is ``open``; ``draining`` or, with no connection left, ``drained`` when an operator has closed it;
    ``closing`` when it is no longer configured and still has connections.
    """

    id: str
    address: str
    state: str
    active: int
    accepted: int
    blocked: dict[str, int]


class ServiceDescription(Struct, frozen=True, array_like=True, tag=True):
    """The listeners, and the totals of all acceptors since the start, of those too that are gone.

    `errors` maps a reason to how many connections it ended; `draining` names acceptors that only finish what they have,
    `left` the supervisors before this one that still do so. `stopping`: nobody is let in any more, and everything ends.
    """

    listeners: tuple[ListenerDescription, ...]
    active: int
    accepted: int
    bytes_up: int
    bytes_down: int
    errors: dict[str, int]
    draining: tuple[str, ...]
    left: tuple[LeftOver, ...] = ()
    stopping: bool = False


ControlRequest = (
    ReloadService
    | UpgradeService
    | DrainService
    | AwaitDrained
    | ResumeListener
    | DescribeService
    | DescribeTotals
)
ControlReply = (
    ServiceReloaded
    | ServiceUpgraded
    | UpgradeRefused
    | DrainBegun
    | Drained
    | ListenerResumed
    | ServiceDescription
    | TotalsDescription
    | Refused
)
