"""What is said of held connections, in an acceptor's mailbox."""

from __future__ import annotations

from msgspec import Struct

from symphony.config.model import Fingerprint, SourceAddressHeader, Upstream
from symphony.config.snapshot import ClientAuthority, Identity
from symphony.messages.events import Suspended


class ListHeld(Struct, frozen=True, array_like=True, tag=True):
    """Ask for a :class:`HeldPage`: the connections held now, in the order in which they came.

    `after` is 0 for the first page, then the last page's `next`.
    """

    after: int


class HeldPage(Struct, frozen=True, array_like=True, tag=True):
    """Some of the connections that an acceptor holds; `next` is 0 when there are no more."""

    held: tuple[Suspended, ...]
    next: int


class HeldRoute(Struct, frozen=True, array_like=True):
    """Where a held connection is to go. What is left out is as the suspended route says.

    An `identity` of its own is there to decrypt with, unless `terminate_tls` contradicts it, which is refused. Clients
    are asked for certificates as the suspended route says, whatever the `identity`, but for an `authority` given.
    """

    upstreams: tuple[Upstream, ...] = ()
    terminate_tls: bool | None = None
    identity: Identity | None = None
    http2: bool | None = None
    source_address_header: SourceAddressHeader | None = None
    forward_fingerprint: tuple[Fingerprint, ...] | None = None
    authority: ClientAuthority | None = None


class ResolveHeld(Struct, frozen=True, array_like=True, tag=True):
    """Forward the held connection `id` as `route` says, or reset it (None). Answered by :class:`HeldResolved`.

    Answered by Refused, with the reason, when the route cannot be used; the connection is then held on.
    """

    id: str
    route: HeldRoute | None


class HeldResolved(Struct, frozen=True, array_like=True, tag=True):
    """`how` is "forwarded" or "rejected"; "unknown" when the connection is not held here, or not any more."""

    how: str
