"""The rate limiter's mailbox. Tags are one letter, since one connection in the proxy costs one such exchange."""

from __future__ import annotations

from msgspec import Struct

from symphony.mailbox.envelope import Refused


class Acquire(Struct, frozen=True, array_like=True, tag="A"):
    """Take one token from the bucket `key`, which refills at `rate` tokens a second up to `burst`.

    The limits travel with the request, so that a limiter which has just been restarted needs nobody to answer.
    """

    key: str
    rate: float
    burst: float


class DescribeLimiter(Struct, frozen=True, array_like=True, tag="Q"):
    """Ask for :class:`LimiterDescription`."""


class Granted(Struct, frozen=True, array_like=True, tag="G"):
    """The token was there and is taken."""


class Denied(Struct, frozen=True, array_like=True, tag="D"):
    """The bucket is empty; a token will be there in `retry_after` seconds."""

    retry_after: float


class LimiterDescription(Struct, frozen=True, array_like=True, tag="L"):
    """How many buckets are kept, and how many requests were answered either way since the limiter started."""

    buckets: int
    granted: int
    denied: int


LimiterRequest = Acquire | DescribeLimiter
LimiterReply = Granted | Denied | LimiterDescription | Refused
