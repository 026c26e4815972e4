"""Histograms of durations in shared memory: counts per bucket and a sum, each a word with one writer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from msgspec import Struct

BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper bounds of all buckets but the last, which takes the rest."""

WORDS = len(BOUNDS_S) + 2
"""What a histogram takes: a count for each bucket, and the sum in microseconds behind them."""

_SUM = len(BOUNDS_S) + 1


def observe(words: memoryview, at: int, seconds: float) -> None:
    """Count a duration in the histogram at `words[at:]`."""
    words[at + bisect_left(BOUNDS_S, seconds)] += 1
    words[at + _SUM] += int(seconds * 1e6)


class Histogram(Struct, frozen=True, array_like=True):
    """A histogram as read. `counts` has one entry per bucket (not cumulative), the last without a bound."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS_S) + 1)
    sum_us: int = 0

    @property
    def count(self) -> int:
        """How many durations it holds."""
        return sum(self.counts)

    def __add__(self, other: Histogram) -> Histogram:
        """Both together."""
        return Histogram(
            tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)), self.sum_us + other.sum_us
        )

    def __sub__(self, earlier: Histogram) -> Histogram:
        """What has come since `earlier`."""
        return Histogram(
            tuple(a - b for a, b in zip(self.counts, earlier.counts, strict=True)),
            self.sum_us - earlier.sum_us,
        )

    def quantile(self, part: float) -> float | None:
        """The duration in seconds that `part` (0 to 1) of all are below, None of none.

        As good as the buckets are: it is found between the bounds of its bucket by proportion.
        """
        total = self.count
        if not total:
            return None
        wanted = part * total
        seen = 0
        for index, count in enumerate(self.counts):
            if count and seen + count >= wanted:
                low = BOUNDS_S[index - 1] if index else 0.0
                high = BOUNDS_S[index] if index < len(BOUNDS_S) else BOUNDS_S[-1]
                return low + (high - low) * (wanted - seen) / count
            seen += count
        return BOUNDS_S[-1]


def read(words: Sequence[int] | memoryview, at: int) -> Histogram:
    """The histogram at `words[at:]`."""
    return Histogram(tuple(words[at : at + _SUM]), words[at + _SUM])
