"""What an acceptor tells those who ask to hear of it, beside its totals: one struct per kind of event.

Whoever sends :class:`SubscribeEvents` to an acceptor's mailbox gets every event from then on as a push. Events are for
people and programs that watch; nothing in the tree depends on one arriving.
"""

from __future__ import annotations

from msgspec import Struct


class SubscribeEvents(Struct, frozen=True, array_like=True, tag=True):
    """Ask for every :data:`Event` from now on; answered by :class:`EventsSubscribed`."""


class EventsSubscribed(Struct, frozen=True, array_like=True, tag=True):
    """The subscription stands."""

    acceptor: str


class Blocked(Struct, frozen=True, array_like=True, tag=True):
    """A connection was refused by the listener's protection.

    `reason` is a :class:`symphony.observe.reasons.Reason`; `ja3` and `ja4` are "" unless they were computed. Of a
    flood only some are told: `left_out` is how many were not since the last one that was.
    """

    listener: str
    ip: str
    reason: str
    sni: str
    ja3: str
    ja4: str
    left_out: int


class Suspended(Struct, frozen=True, array_like=True, tag=True):
    """A connection is held until somebody resolves it by its `id`, or for `timeout_ms` from when it began to be.

    `sni` is "" for a client that sent no name; `ja3` and `ja4` are "" for a ClientHello that has none. `held_ms` is how
    long it has been held when this is said: 0 in the event, more in a list.
    """

    id: str
    listener: str
    route: str
    sni: str
    peer_ip: str
    peer_port: int
    ja3: str
    ja4: str
    timeout_ms: int
    held_ms: int = 0


class Released(Struct, frozen=True, array_like=True, tag=True):
    """A connection is held no more.

    `how` is "forwarded", "rejected", "expired" (nobody resolved it in time), "left" (the client has), or "aborted" (the
    acceptor stops). An acceptor that is killed says nothing: who merges the events of all acceptors then says "gone".
    """

    id: str
    how: str


Event = Blocked | Suspended | Released
