"""Telemetry in the text format that Prometheus scrapes.

Labels are bounded by the configuration: routes, upstreams, listeners and actors are those that it names, and reasons
and cipher suites are closed sets. Nothing that a client sends becomes a label.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from symphony.observe.histogram import BOUNDS_S, Histogram
from symphony.observe.records import Totals
from symphony.observe.telemetry import Telemetry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DEFAULT_ROUTE = "default"
"""How the route for all other names is called: an empty label would be no label to Prometheus."""


def render(telemetry: Telemetry) -> bytes:
    """The whole of `telemetry`, for a body of type :data:`CONTENT_TYPE`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(telemetry))
    return generate_latest(registry)


class _Once(Collector):
    """A collector of one state of things."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterator[Metric]:
        telemetry = self._telemetry
        yield InfoMetricFamily("symphony", "The running version.", value={"version": telemetry.version})
        yield from _instance(telemetry)
        yield from _traffic(telemetry)
        yield from _listeners(telemetry)
        yield from _handshakes(telemetry)
        yield from _records("route", "route", telemetry.totals.routes)
        yield from _records("upstream", "upstream", telemetry.totals.upstreams)
        yield _connect_seconds(telemetry)
        yield from _actors(telemetry)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"symphony_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"symphony_{name}", text, value=value)


def _instance(telemetry: Telemetry) -> Iterator[Metric]:
    yield _gauge("uptime_seconds", "Since the supervisor began.", telemetry.uptime_s)
    yield _gauge("config_version", "The version of the configuration in force.", telemetry.config_version)
    yield _gauge("config_problems", "Findings of the last reading of the configuration.", telemetry.problems)
    yield _gauge("routes", "Routes in the configuration.", telemetry.routes)
    applied = GaugeMetricFamily(
        "symphony_acceptor_config_version",
        "The configuration version that an acceptor serves.",
        labels=["acceptor"],
    )
    for name, version in telemetry.applied.items():
        applied.add_metric([name], version)
    yield applied


def _traffic(telemetry: Telemetry) -> Iterator[Metric]:
    totals = telemetry.totals
    yield _counter("connections_accepted", "Connections accepted.", totals.accepted)
    yield _gauge("connections_active", "Connections open now.", totals.active)
    yield _gauge("connections_held", "Connections held for a decision now.", telemetry.held)
    moved = CounterMetricFamily("symphony_bytes", "Bytes moved.", labels=["direction"])
    moved.add_metric(["up"], totals.bytes_up)
    moved.add_metric(["down"], totals.bytes_down)
    yield moved
    ended = CounterMetricFamily(
        "symphony_connections_failed", "Connections that ended early, by reason.", labels=["reason"]
    )
    for reason, count in sorted(totals.errors.items()):
        ended.add_metric([reason], count)
    yield ended


def _listeners(telemetry: Telemetry) -> Iterator[Metric]:
    accepted = CounterMetricFamily(
        "symphony_listener_accepted", "Connections accepted, by listener.", labels=["listener"]
    )
    active = GaugeMetricFamily(
        "symphony_listener_active", "Connections open now, by listener.", labels=["listener"]
    )
    blocked = CounterMetricFamily(
        "symphony_listener_blocked",
        "Connections that a listener's protection refused.",
        labels=["listener", "reason"],
    )
    for listener in telemetry.totals.listeners:
        accepted.add_metric([listener.id], listener.accepted)
        active.add_metric([listener.id], listener.active)
        for reason, count in sorted(listener.blocked.items()):
            blocked.add_metric([listener.id, reason], count)
    yield from (accepted, active, blocked)


def _handshakes(telemetry: Telemetry) -> Iterator[Metric]:
    handshakes = CounterMetricFamily(
        "symphony_handshakes", "TLS handshakes that ended well.", labels=["version", "cipher", "resumed"]
    )
    for suite, (full, resumed) in sorted(telemetry.totals.suites.items()):
        version = "" if suite == "other" else "1.3" if suite.startswith("TLS_") else "1.2"
        handshakes.add_metric([version, suite, "no"], full)
        handshakes.add_metric([version, suite, "yes"], resumed)
    yield handshakes
    yield _histogram(
        "handshake_seconds",
        "From the accepting of a connection to the end of its TLS handshake.",
        telemetry.totals.handshake_time,
    )
    yield _histogram("connect_seconds", "What connecting to an upstream took.", telemetry.totals.connect_time)


def _histogram(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    buckets: list[tuple[str, float]] = []
    below = 0
    for bound, count in zip((*BOUNDS_S, float("inf")), histogram.counts, strict=True):
        below += count
        buckets.append(("+Inf" if bound == float("inf") else repr(bound), below))
    return HistogramMetricFamily(f"symphony_{name}", text, buckets=buckets, sum_value=histogram.sum_us / 1e6)


def _records(kind: str, label: str, records: dict[str, Totals]) -> Iterator[Metric]:
    active = GaugeMetricFamily(f"symphony_{kind}_active", f"Connections open now, by {kind}.", labels=[label])
    connections = CounterMetricFamily(
        f"symphony_{kind}_connections", f"Connections, by {kind}.", labels=[label]
    )
    failures = CounterMetricFamily(
        f"symphony_{kind}_failures",
        "Connections that ended early, by route."
        if kind == "route"
        else "Failed attempts to connect, by upstream.",
        labels=[label],
    )
    moved = CounterMetricFamily(
        f"symphony_{kind}_bytes", f"Bytes moved, by {kind}.", labels=[label, "direction"]
    )
    for key, totals in records.items():
        name = key or DEFAULT_ROUTE
        active.add_metric([name], totals.active)
        connections.add_metric([name], totals.connections)
        failures.add_metric([name], totals.failures)
        moved.add_metric([name, "up"], totals.bytes_up)
        moved.add_metric([name, "down"], totals.bytes_down)
    yield from (active, connections, failures, moved)


def _connect_seconds(telemetry: Telemetry) -> Metric:
    spent = CounterMetricFamily(
        "symphony_upstream_connect_seconds",
        "Time spent connecting, by upstream; over its connections it is the mean.",
        labels=["upstream"],
    )
    for label, totals in telemetry.totals.upstreams.items():
        spent.add_metric([label], totals.connect_us / 1e6)
    return spent


def _actors(telemetry: Telemetry) -> Iterator[Metric]:
    up = GaugeMetricFamily("symphony_actor_up", "Whether an actor runs.", labels=["actor"])
    restarts = CounterMetricFamily(
        "symphony_actor_restarts", "How often an actor was started again.", labels=["actor"]
    )
    depth = GaugeMetricFamily(
        "symphony_actor_mailbox_depth", "Requests that wait in an actor's mailbox.", labels=["actor"]
    )
    memory = GaugeMetricFamily(
        "symphony_actor_resident_bytes", "An actor's memory, shared pages included.", labels=["actor"]
    )
    for actor in telemetry.actors:
        up.add_metric([actor.name], 1 if actor.state == "running" else 0)
        restarts.add_metric([actor.name], actor.restarts)
        depth.add_metric([actor.name], actor.depth)
        memory.add_metric([actor.name], actor.rss_bytes)
    yield from (up, restarts, depth, memory)
