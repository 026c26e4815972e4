"""An acceptor's mailbox."""

from __future__ import annotations

from msgspec import Struct

from symphony.mailbox.envelope import Refused
from symphony.messages.events import Blocked, EventsSubscribed, Released, SubscribeEvents, Suspended
from symphony.messages.held import HeldPage, HeldResolved, ListHeld, ResolveHeld
from symphony.messages.totals import DescribeRecords, RecordsDescription
from symphony.messages.upstreams import DescribeUpstreams, UpstreamsDescription


class DescribeAcceptor(Struct, frozen=True, array_like=True, tag=True):
    """Ask for :class:`AcceptorDescription`."""


class LeaveListener(Struct, frozen=True, array_like=True, tag=True):
    """Take what waits at a listener's sockets, and let nobody in there any more; answered by :class:`ListenerHeeded`.

    With `cut`, also end its connections.
    """

    listener: str
    cut: bool = False


class ServeListener(Struct, frozen=True, array_like=True, tag=True):
    """Accept again at a listener, which listens again; answered by :class:`ListenerHeeded`."""

    listener: str


class ListenerHeeded(Struct, frozen=True, array_like=True, tag=True):
    """It is done; `cut` connections were ended for it."""

    cut: int = 0


class ListenerTotals(Struct, frozen=True, array_like=True):
    """One listener of one acceptor. `address` is as bound; `accepted` counts since the tree started.

    `blocked` maps a reason to how many connections this listener refused for it.
    """

    id: str
    address: str
    accepted: int
    active: int
    blocked: dict[str, int] = {}


class AcceptorDescription(Struct, frozen=True, array_like=True, tag=True):
    """What one acceptor does now. `errors` maps a reason to how many connections it ended since the tree started.

    `descriptors` are open in its process, of `descriptor_limit`.
    """

    name: str
    version: int
    routes: int
    contexts: int
    listeners: tuple[ListenerTotals, ...]
    accepted: int
    active: int
    bytes_up: int
    bytes_down: int
    errors: dict[str, int]
    adopted: tuple[str, ...]
    held: int = 0
    descriptors: int = 0
    descriptor_limit: int = 0


AcceptorRequest = (
    DescribeAcceptor
    | DescribeRecords
    | DescribeUpstreams
    | SubscribeEvents
    | ListHeld
    | ResolveHeld
    | LeaveListener
    | ServeListener
)
AcceptorReply = (
    AcceptorDescription
    | RecordsDescription
    | UpstreamsDescription
    | EventsSubscribed
    | HeldPage
    | HeldResolved
    | ListenerHeeded
    | Blocked
    | Suspended
    | Released
    | Refused
)
