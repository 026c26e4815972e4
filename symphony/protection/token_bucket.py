"""Token buckets: so many events a second on average, so many at once.

A bucket holds at most `burst` tokens, refills at `rate` tokens a second and starts full. Time is passed in,
in seconds of a clock that never goes back (:func:`time.monotonic`), so that the same code is exact in tests.

A full bucket knows nothing that a new one does not. So a :class:`BucketTable` may forget full buckets, and
only those: forgetting any other would hand out its tokens a second time.
"""

from __future__ import annotations

from heapq import heappop, heappush

# Lets a token through that is only missing because of rounding, as after waiting exactly as long as told.
_ROUNDING = 1e-9


class TokenBucket:
    """One bucket. `tokens` is what it held at the time `updated`."""

    __slots__ = ("burst", "rate", "tokens", "updated")

    def __init__(self, rate: float, burst: float, now: float, tokens: float | None = None) -> None:
        """Begin with `tokens`, by default full. Raises ValueError unless `rate` > 0 and `burst` >= 1."""
        self.tokens = burst if tokens is None else tokens
        self.updated = now
        self.rate = self.burst = 0.0
        self._set(rate, burst)

    def take(self, now: float) -> float:
        """Take one token and return 0.0, or take none and return in how many seconds there will be one."""
        self._refill(now)
        missing = 1.0 - self.tokens
        if missing > _ROUNDING:
            return missing / self.rate
        self.tokens -= 1.0
        return 0.0

    def change(self, rate: float, burst: float, now: float) -> None:
        """Take other limits from `now` on. What is there stays, up to the new burst."""
        self._refill(now)
        self._set(rate, burst)
        self.tokens = min(self.tokens, burst)

    @property
    def full_at(self) -> float:
        """When the bucket is full again unless something is taken."""
        return self.updated + (self.burst - self.tokens) / self.rate

    def _refill(self, now: float) -> None:
        elapsed = now - self.updated
        if elapsed > 0.0:
            self.updated = now
            self.tokens = min(self.burst, self.tokens + elapsed * self.rate)

    def _set(self, rate: float, burst: float) -> None:
        if not (rate > 0.0 and burst >= 1.0):
            raise ValueError(f"a bucket of rate {rate}, burst {burst}; expected above 0 and at least 1")
        self.rate = rate
        self.burst = burst


class BucketTable:
    """Buckets by key, at most `capacity` of them.

    When there is no room, buckets that are full by now make way. When none is, the new key is denied: memory
    stays bounded and no token is handed out twice.
    """

    __slots__ = ("_buckets", "_full_times", "capacity")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("a bucket table needs room for one bucket")
        self.capacity = capacity
        self._buckets: dict[str, TokenBucket] = {}
        # One entry per bucket, used only when there is no room: when it may be full. Taking tokens moves the
        # real time further away; the entry is corrected when it comes up. So room costs O(log n) per take.
        self._full_times: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._buckets)

    def __contains__(self, key: str) -> bool:
        return key in self._buckets

    def take(self, key: str, rate: float, burst: float, now: float, initial: float | None = None) -> float:
        """Take one token from the bucket `key`; return 0.0, or in how many seconds to come again.

        A new bucket begins with `initial` tokens, by default full. Other limits than the last time apply from
        now on. Raises ValueError for limits that no bucket can have.
        """
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = TokenBucket(rate, burst, now, initial)
            if len(self._buckets) >= self.capacity:
                wait = self._make_room(now)
                if wait > 0.0:
                    return wait
            self._buckets[key] = bucket
            heappush(self._full_times, (now, key))
        elif bucket.rate != rate or bucket.burst != burst:
            bucket.change(rate, burst, now)
        return bucket.take(now)

    def _make_room(self, now: float) -> float:
        """Forget one full bucket and return 0.0, or return in how many seconds the first may be full."""
        times = self._full_times
        while times[0][0] <= now:
            _, key = heappop(times)
            full_at = self._buckets[key].full_at
            if full_at <= now:
                del self._buckets[key]
                return 0.0
            heappush(times, (full_at, key))
        return times[0][0] - now
