"""An acceptor's question whether a connection may be let in, answered with or without the rate limiter.

While the rate limiter answers, its one bucket per route is exact over all acceptors. When it is down or does
not answer in time, this acceptor decides with a bucket of its own that has its share of the limits. A
question that came to nothing may still have taken a token there, and never grants one here beyond the share:
what all of them let in is at most the limiter's allowance and the shares added up.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from symphony.mailbox.client import MailboxClient
from symphony.messages.limiter import Acquire, Denied, Granted, LimiterReply
from symphony.protection.token_bucket import BucketTable

ANSWER_WITHIN_S = 0.045
"""The mailbox tells up to 4 ms later that there is no answer: 50 ms in all."""

_CAPACITY = 65536


def _nothing() -> None:
    """Tell nobody."""


class RouteLimiter:
    """Asks the rate limiter through `client`; `acceptors` is how many processes share the limits.

    `on_alone` is called for each question without the limiter's answer, `on_denied` for each refusal.
    """

    __slots__ = (
        "_client",
        "_clock",
        "_local",
        "_on_alone",
        "_on_denied",
        "_share",
    )

    def __init__(
        self,
        client: MailboxClient,
        acceptors: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        on_alone: Callable[[], None] = _nothing,
        on_denied: Callable[[], None] = _nothing,
    ) -> None:
        if acceptors < 1:
            raise ValueError("limits are shared by at least one acceptor")
        self._client = client
        self._clock = clock
        self._on_alone = on_alone
        self._on_denied = on_denied
        self._share = 1.0 / acceptors
        self._local = BucketTable(_CAPACITY)

    def admit(self, key: str, rate: float, burst: float, callback: Callable[[bool], None]) -> None:
        """Call `callback` with whether one more connection of `key` may come in, now or within 50 ms.

        `rate` is in connections a second, `burst` how many at once (at least 1).
        """

        def answered(reply: LimiterReply | None) -> None:
            if type(reply) is Granted:
                callback(True)
            elif type(reply) is Denied:
                self._on_denied()
                callback(False)
            else:
                callback(self._decide(key, rate, burst))

        self._client.request(Acquire(key, rate, burst), answered, ANSWER_WITHIN_S)

    def _decide(self, key: str, rate: float, burst: float) -> bool:
        self._on_alone()
        burst_share = burst * self._share
        # A share below one token could never let anything in. Such a bucket holds one token, but begins with its
        # share, so that over all acceptors no more than the route's burst is there when the limiter is lost.
        wait = self._local.take(key, rate * self._share, max(1.0, burst_share), self._clock(), burst_share)
        if wait > 0.0:
            self._on_denied()
            return False
        return True
