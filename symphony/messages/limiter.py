"""The rate limiter's mailbox. Tags are one letter, since a connection to a route with a limit costs such an exchange.

A route's bucket is asked for by :class:`Acquire`, and its limits travel with the request. About sources nothing is
asked: acceptors decide by what they know together. They tell their limits (:class:`Configure`) and who has as much open
as is allowed (:class:`AtLimit`), so that somebody can say who is refused. What an acceptor told is forgotten when it is
gone.
"""

from __future__ import annotations

from msgspec import Struct

from symphony.mailbox.envelope import Refused
from symphony.protection.census import BlockedSource
from symphony.protection.penalty import SourceLimits


class Acquire(Struct, frozen=True, array_like=True, tag="A"):
    """Take one token from the bucket `key`, which refills at `rate` tokens a second up to `burst`.

    The limits travel with the request, so that a limiter which has just been restarted needs nobody to answer.
    """

    key: str
    rate: float
    burst: float


class Configure(Struct, frozen=True, array_like=True, tag="C"):
    """The limits of all listeners, by id, as of snapshot `version`; an older one than is known changes nothing.

    No reply.
    """

    version: int
    limits: tuple[tuple[str, SourceLimits], ...]


class AtLimit(Struct, frozen=True, array_like=True, tag="H"):
    """These sources of a listener, and no others, have as much open as they may have, as the sender knows. No reply."""

    listener: str
    keys: tuple[bytes, ...]


class ListBlocked(Struct, frozen=True, array_like=True, tag="B"):
    """Ask for :class:`BlockedSources`, at most `limit` of them."""

    limit: int


class DescribeLimiter(Struct, frozen=True, array_like=True, tag="Q"):
    """Ask for :class:`LimiterDescription`."""


class Granted(Struct, frozen=True, array_like=True, tag="G"):
    """The token was there and is taken."""


class Denied(Struct, frozen=True, array_like=True, tag="D"):
    """The bucket is empty; a token will be there in `retry_after` seconds."""

    retry_after: float


class BlockedSources(Struct, frozen=True, array_like=True, tag="K"):
    """The sources that would be refused now, and how many more there are."""

    sources: tuple[BlockedSource, ...]
    left_out: int


class LimiterDescription(Struct, frozen=True, array_like=True, tag="L"):
    """How many buckets are kept, and how many requests were answered either way since the limiter started.

    `sources` are remembered, and `at_limit` of them have as much open as they may have.
    """

    buckets: int
    granted: int
    denied: int
    sources: int = 0
    at_limit: int = 0


LimiterRequest = Acquire | Configure | AtLimit | ListBlocked | DescribeLimiter
LimiterReply = Granted | Denied | BlockedSources | LimiterDescription | Refused
