"""The rate limiter's mailbox. Tags are one letter, since one connection in the proxy costs one or two such exchanges.

Two kinds of question. A route's bucket is asked for by :class:`Acquire`, and its limits travel with the request. The
sources of a listener are asked for by :class:`Admit`; their limits are told once on each connection, before anything
else (:class:`Configure`), and the connection itself is the holder of what it was told to hold: when it ends, all of
that is given back. An acceptor that connects then says what it has open (:class:`Hold`) and what it decided on alone
(:class:`Count`).
"""

from __future__ import annotations

from msgspec import Struct

from symphony.mailbox.envelope import Refused
from symphony.protection.penalty import SourceLimits, Verdict
from symphony.protection.sources import BlockedSource


class Acquire(Struct, frozen=True, array_like=True, tag="A"):
    """Take one token from the bucket `key`, which refills at `rate` tokens a second up to `burst`.

    The limits travel with the request, so that a limiter which has just been restarted needs nobody to answer.
    """

    key: str
    rate: float
    burst: float


class Admit(Struct, frozen=True, array_like=True, tag="S", gc=False):
    """May one more connection of a source in? Answered by :class:`Ruling` or :class:`Holding`.

    `key` is as :func:`symphony.protection.cidr.source_key` makes it. The answer counts for this connection.
    """

    listener: str
    key: bytes


class Release(Struct, frozen=True, array_like=True, tag="E", gc=False):
    """A connection that was answered by :class:`Holding` is over. No reply."""

    listener: str
    key: bytes


class Configure(Struct, frozen=True, array_like=True, tag="C"):
    """The limits of all listeners, by id, as of snapshot `version`; an older one than is known changes nothing.

    No reply.
    """

    version: int
    limits: tuple[tuple[str, SourceLimits], ...]


class Hold(Struct, frozen=True, array_like=True, tag="H"):
    """The sender has these connections open besides those it was told to hold: (key, how many). No reply."""

    listener: str
    counts: tuple[tuple[bytes, int], ...]


class Attempts(Struct, frozen=True, array_like=True, gc=False):
    """So many connections of a source from the time `first` to the time `last`, and how many of them were let in."""

    key: bytes
    times: int
    let_in: int
    first: float
    last: float


class Count(Struct, frozen=True, array_like=True, tag="T"):
    """Connections that were decided on without asking. No reply."""

    listener: str
    attempts: tuple[Attempts, ...]


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


class Ruling(Struct, frozen=True, array_like=True, tag="V", gc=False):
    """What becomes of a connection. The source is refused until the time `until` at least; 0.0 when not known.

    Times are of :func:`time.monotonic`, as everywhere in this mailbox.
    """

    verdict: Verdict
    until: float


class Holding(Struct, frozen=True, array_like=True, tag="O", gc=False):
    """The connection is admitted, and counts as open until its :class:`Release`.

    It repeats the question, so that an answer which comes too late can be given back.
    """

    listener: str
    key: bytes


class BlockedSources(Struct, frozen=True, array_like=True, tag="K"):
    """The sources that would be refused now, and how many more there are."""

    sources: tuple[BlockedSource, ...]
    left_out: int


class LimiterDescription(Struct, frozen=True, array_like=True, tag="L"):
    """How many buckets are kept, and how many requests were answered either way since the limiter started.

    `sources` are remembered, `held` connections are counted as open, and `turned_away` were refused because there
    was no room to count their source.
    """

    buckets: int
    granted: int
    denied: int
    sources: int = 0
    held: int = 0
    turned_away: int = 0


LimiterRequest = Acquire | Admit | Release | Configure | Hold | Count | ListBlocked | DescribeLimiter
LimiterReply = Granted | Denied | Ruling | Holding | BlockedSources | LimiterDescription | Refused
