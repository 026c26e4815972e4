"""Families of metrics: samples of one name and kind, each with other values of the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from symphony.observe.histogram import BOUNDS_S, Histogram

Rows = Iterable[tuple[tuple[str, ...], float]]
"""The values of labels, and the value."""

T = TypeVar("T")
Family = TypeVar("Family", GaugeMetricFamily, CounterMetricFamily)


class CountsBytes(Protocol):
    """Whatever has bytes up (from clients to upstreams) and down."""

    @property
    def bytes_up(self) -> int: ...

    @property
    def bytes_down(self) -> int: ...


Moving = TypeVar("Moving", bound=CountsBytes)


def gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    """A value that goes up and down."""
    return GaugeMetricFamily(f"symphony_{name}", text, value=value)


def counter(name: str, text: str, value: float) -> CounterMetricFamily:
    """A value that only goes up; its sample is called ``name_total``."""
    return CounterMetricFamily(f"symphony_{name}", text, value=value)


def gauges(name: str, text: str, labels: Sequence[str], rows: Rows) -> GaugeMetricFamily:
    """A gauge for each of `rows`."""
    return _filled(GaugeMetricFamily(f"symphony_{name}", text, labels=labels), rows)


def counters(name: str, text: str, labels: Sequence[str], rows: Rows) -> CounterMetricFamily:
    """A counter for each of `rows`."""
    return _filled(CounterMetricFamily(f"symphony_{name}", text, labels=labels), rows)


def moved_bytes(
    name: str, text: str, labels: Sequence[str], things: Iterable[tuple[tuple[str, ...], CountsBytes]]
) -> CounterMetricFamily:
    """Bytes in both directions, for each of `things`, which come behind their values of `labels`."""
    rows = (
        ((*values, direction), count)
        for values, each in things
        for direction, count in (("up", each.bytes_up), ("down", each.bytes_down))
    )
    return counters(name, text, (*labels, "direction"), rows)


def histograms(name: str, text: str, label: str, found: Mapping[str, Histogram]) -> HistogramMetricFamily:
    """One histogram for each value of `label`; a single one when `label` is empty."""
    family = HistogramMetricFamily(f"symphony_{name}", text, labels=[label] if label else [])
    for value, histogram in found.items():
        buckets: list[tuple[str, float]] = []
        below = 0
        for bound, count in zip((*BOUNDS_S, float("inf")), histogram.counts, strict=True):
            below += count
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), below))
        family.add_metric([value] if label else [], buckets, histogram.sum_us / 1e6)
    return family


def histogram(name: str, text: str, found: Histogram) -> HistogramMetricFamily:
    """A histogram without labels."""
    return histograms(name, text, "", {"": found})


class By(Generic[T]):
    """Families with one label, which says whose a value is: `things` are all that have it, each behind its name."""

    def __init__(self, label: str, things: Iterable[tuple[str, T]]) -> None:
        self._labels = (label,)
        self._things = tuple(things)

    def gauges(self, name: str, text: str, value: Callable[[T], float]) -> GaugeMetricFamily:
        """What `value` says of each."""
        return gauges(name, text, self._labels, self._rows(value))

    def counters(self, name: str, text: str, value: Callable[[T], float]) -> CounterMetricFamily:
        """What `value` says of each."""
        return counters(name, text, self._labels, self._rows(value))

    def counters_by_reason(
        self, name: str, text: str, counts: Callable[[T], Mapping[str, int]]
    ) -> CounterMetricFamily:
        """What `counts` says of each, by reason."""
        rows = (
            ((whose, reason), count)
            for whose, each in self._things
            for reason, count in sorted(counts(each).items())
        )
        return counters(name, text, (*self._labels, "reason"), rows)

    def moved_bytes(self: By[Moving], name: str, text: str) -> CounterMetricFamily:
        """The bytes of each, in both directions."""
        return moved_bytes(name, text, self._labels, (((whose,), each) for whose, each in self._things))

    def _rows(self, value: Callable[[T], float]) -> Rows:
        return (((whose,), value(each)) for whose, each in self._things)


def _filled(family: Family, rows: Rows) -> Family:
    for values, value in rows:
        family.add_metric(values, value)
    return family
