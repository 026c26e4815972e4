"""What a supervisor and the one that is to take its place say to each other, which may be of different versions.

They are objects in JSON, of which a reader ignores what it does not know; :data:`PROTOCOL` is raised when that would
not do. The order:

    old -> new   Offer, then Sockets until all are there
    new -> old   Prepared: all its processes are ready, and touch nothing
    old -> new   Proceed: the runtime directory's names are free
    new -> old   Taken: its acceptors accept from the sockets
    old -> new   Yours: nobody of the old ones will touch the sockets again

Either of them may end it before that by closing the connection. The new one says why first, by Failed; the old one says
by Withdrawn that it lives and sees to the sockets itself, which who only hears the connection close has to find out.
Afterwards the old one tells what it still has by Draining, and the new one when the two of them are to end by Hasten;
the old one says that, too, if it was told to stop while it could not go back.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

PROTOCOL = 1


class OfferedListener(Struct, frozen=True):
    """A listener that is open. `address` is as bound; `sockets` is how many come with it.

    `lasting`: they are the service manager's, which keeps them open. `draining`: an operator has closed it, and it does
    not listen.
    """

    id: str
    address: str
    sockets: int
    lasting: bool = False
    draining: bool = False


class OfferedMemory(Struct, frozen=True):
    """A piece of memory that outlives an upgrade: what it has, and how that is laid out."""

    name: str
    layout: str


class Offer(Struct, frozen=True, tag=True):
    """What there is to take over.

    The sockets follow, in the order of the listeners, and then those that the service manager has `passed`, which are
    named here. Descriptors of `memory` come with this very message: a reader that does not know it passes them over.
    """

    protocol: int
    pid: int
    runtime_dir: str
    listeners: tuple[OfferedListener, ...]
    passed: tuple[str, ...] = ()
    memory: tuple[OfferedMemory, ...] = ()


class Sockets(Struct, frozen=True, tag=True):
    """Some of the sockets are attached to this."""


class Failed(Struct, frozen=True, tag=True):
    """The new one cannot; `reason` may be several lines. `configuration`: it is the configuration's fault."""

    reason: str
    configuration: bool = False


class Prepared(Struct, frozen=True, tag=True):
    """All processes of the new one are ready."""


class Proceed(Struct, frozen=True, tag=True):
    """It is the new one's turn."""


class Taken(Struct, frozen=True, tag=True):
    """New connections are served by the new one, at `addresses`; the old one may close all others."""

    addresses: tuple[str, ...]


class Yours(Struct, frozen=True, tag=True):
    """The sockets are the new one's alone."""


class Left(Struct, frozen=True):
    """A supervisor that is ending, and how many connections its acceptors still have."""

    pid: int
    connections: int


class Withdrawn(Struct, frozen=True, tag=True):
    """Nothing is handed over. The old one lives, and goes on or ends by itself."""


class Draining(Struct, frozen=True, tag=True):
    """Who is still there, the sender first."""

    left: tuple[Left, ...]


class Hasten(Struct, frozen=True, tag=True):
    """Stop within `grace_s` seconds; said again: at once."""

    grace_s: float


SuccessionMessage = (
    Offer | Sockets | Failed | Prepared | Proceed | Taken | Yours | Withdrawn | Draining | Hasten
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder[SuccessionMessage](SuccessionMessage).decode


def encode_succession(message: SuccessionMessage) -> bytes:
    """Return `message` as one packet."""
    return _encode(message)


def decode_succession(packet: bytes) -> SuccessionMessage:
    """Read a packet. :raises msgspec.DecodeError: it is none of these messages."""
    message: SuccessionMessage = _decode(packet)
    return message
