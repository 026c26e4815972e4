"""Arithmetic of the benchmark: medians with their range, percentiles, slopes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from msgspec import Struct


class Spread(Struct, frozen=True):
    """A median with the range it comes from."""

    median: float
    low: float
    high: float
    count: int

    def text(self, digits: int = 2) -> str:
        """The form used in tables: ``0.92 (0.90-0.95)``."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Return the median, minimum and maximum; ValueError when there is nothing."""
    if not values:
        raise ValueError("no values")
    return Spread(statistics.median(values), min(values), max(values), len(values))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of sorted values: the smallest that `percent` % do not exceed."""
    if not ordered:
        raise ValueError("no values")
    if not 0 < percent <= 100:
        raise ValueError(f"{percent} is not a percentage")
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p99, p99.9 and max."""
    ordered = sorted(values)
    figures = {f"p{p:g}": percentile(ordered, p) for p in (50, 99, 99.9)}
    figures["max"] = ordered[-1]
    return figures


def ratio(part: float, whole: float) -> float:
    """Return part / whole; ValueError when either is not positive, because no process works for nothing."""
    if part <= 0 or whole <= 0:
        raise ValueError(f"cannot compare {part} with {whole}: a side without CPU was not measured")
    return part / whole


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the least-squares slope of (x, y) points; ValueError when they have no spread in x."""
    mean_x = statistics.fmean(x for x, _ in points) if points else 0.0
    mean_y = statistics.fmean(y for _, y in points) if points else 0.0
    square = sum((x - mean_x) ** 2 for x, _ in points)
    if square == 0:
        raise ValueError("a slope needs two different points")
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / square
