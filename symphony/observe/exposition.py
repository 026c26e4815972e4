"""Telemetry in the text format that Prometheus scrapes.

Labels are bounded by the configuration: routes, upstreams, listeners, certificates and actors are those that it names,
and reasons and cipher suites are closed sets. Nothing that a client sends becomes a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from symphony.messages.totals import ServiceTotals
from symphony.observe.histogram import BOUNDS_S, Histogram
from symphony.observe.records import Totals
from symphony.observe.telemetry import Telemetry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
T = TypeVar("T")

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
        totals = telemetry.totals
        yield InfoMetricFamily("symphony", "The running version.", value={"version": telemetry.version})
        yield from _instance(telemetry)
        yield from _traffic(telemetry)
        yield from _acceptors(telemetry)
        yield from _listeners(totals)
        yield from _handshakes(totals)
        yield from _records("route", totals.routes)
        yield _histogram(
            "route_handshake_seconds",
            "From the accepting of a connection to the end of its TLS handshake, by route (the first 1024).",
            _named(totals.handshake_times),
            "route",
        )
        yield from _records("upstream", totals.upstreams)
        yield _sums(
            "upstream_connecting_seconds",
            "Time spent connecting, by upstream; over its connections it is the mean.",
            ("upstream",),
            (((label,), found.connect_us / 1e6) for label, found in totals.upstreams.items()),
        )
        yield _histogram(
            "upstream_connect_seconds",
            "What connecting to an upstream took, by upstream (the first 1024).",
            totals.connect_times,
            "upstream",
        )
        yield from _health(telemetry)
        yield from _limits(telemetry)
        yield from _certificates(telemetry)
        yield from _actors(telemetry)


Rows = Iterable[tuple[tuple[str, ...], float]]
"""The values of labels, and the value."""


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"symphony_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"symphony_{name}", text, value=value)


def _levels(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"symphony_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _sums(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> CounterMetricFamily:
    family = CounterMetricFamily(f"symphony_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _instance(telemetry: Telemetry) -> Iterator[Metric]:
    yield _gauge("uptime_seconds", "Since the supervisor began.", telemetry.uptime_s)
    yield _gauge("config_version", "The version of the configuration in force.", telemetry.config_version)
    yield _gauge("config_problems", "Findings of the last reading of the configuration.", telemetry.problems)
    yield _gauge("routes", "Routes in the configuration.", telemetry.routes)
    yield _gauge("silent_actors", "Actors that did not answer within a second.", len(telemetry.silent))
    yield _counter(
        "log_lines_lost",
        "Log lines that nobody took in time, by all processes.",
        telemetry.totals.log_lines_lost,
    )


def _traffic(telemetry: Telemetry) -> Iterator[Metric]:
    totals = telemetry.totals
    yield _counter("connections_accepted", "Connections accepted.", totals.accepted)
    yield _gauge("connections_active", "Connections open now.", totals.active)
    yield _gauge("connections_held", "Connections held for a decision now.", telemetry.held)
    yield _moved("bytes", "Bytes moved.", (), [((), totals.bytes_up, totals.bytes_down)])
    yield _sums(
        "connections_failed",
        "Connections that ended early, by reason.",
        ("reason",),
        (((reason,), count) for reason, count in sorted(totals.errors.items())),
    )


def _moved(
    name: str, text: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], int, int]]
) -> CounterMetricFamily:
    """Bytes up (from clients to upstreams) and down."""
    family = CounterMetricFamily(f"symphony_{name}", text, labels=(*labels, "direction"))
    for values, up, down in rows:
        family.add_metric((*values, "up"), up)
        family.add_metric((*values, "down"), down)
    return family


def _acceptors(telemetry: Telemetry) -> Iterator[Metric]:
    parts, label = telemetry.totals.acceptors, ("acceptor",)
    gone = 'all that are gone for good together as "gone"'
    yield _sums(
        "acceptor_accepted",
        f"Connections accepted, by acceptor; {gone}.",
        label,
        (((part.name,), part.accepted) for part in parts),
    )
    yield _levels(
        "acceptor_active",
        "Connections open now, by acceptor.",
        label,
        (((part.name,), part.active) for part in parts),
    )
    yield _sums(
        "acceptor_handshakes",
        f"TLS handshakes that ended well, by acceptor; {gone}.",
        label,
        (((part.name,), part.handshakes) for part in parts),
    )
    yield _sums(
        "acceptor_failed",
        f"Connections that ended early, by acceptor; {gone}.",
        label,
        (((part.name,), part.failed) for part in parts),
    )
    yield _moved(
        "acceptor_bytes",
        f"Bytes moved, by acceptor; {gone}.",
        label,
        (((part.name,), part.bytes_up, part.bytes_down) for part in parts),
    )
    yield _levels(
        "acceptor_config_version",
        "The configuration version that an acceptor serves.",
        label,
        (((name,), version) for name, version in telemetry.applied.items()),
    )
    told = telemetry.acceptors
    yield _levels(
        "acceptor_held",
        "Connections held for a decision now, by acceptor.",
        label,
        (((each.name,), each.held) for each in told),
    )
    yield _levels(
        "acceptor_open_descriptors",
        "File descriptors that an acceptor has open.",
        label,
        (((each.name,), each.descriptors) for each in told),
    )
    yield _levels(
        "acceptor_descriptor_limit",
        "File descriptors that an acceptor may have open.",
        label,
        (((each.name,), each.descriptor_limit) for each in told),
    )


def _listeners(totals: ServiceTotals) -> Iterator[Metric]:
    listeners, label = totals.listeners, ("listener",)
    yield _sums(
        "listener_accepted",
        "Connections accepted, by listener.",
        label,
        (((each.id,), each.accepted) for each in listeners),
    )
    yield _levels(
        "listener_active",
        "Connections open now, by listener.",
        label,
        (((each.id,), each.active) for each in listeners),
    )
    yield _sums(
        "listener_handshakes",
        "TLS handshakes that ended well, by listener.",
        label,
        (((each.id,), each.handshakes) for each in listeners),
    )
    yield _moved(
        "listener_bytes",
        "Bytes moved, by listener.",
        label,
        (((each.id,), each.bytes_up, each.bytes_down) for each in listeners),
    )
    by_reason = (*label, "reason")
    yield _sums(
        "listener_failed",
        "Connections that ended early, by listener and reason.",
        by_reason,
        (((each.id, reason), count) for each in listeners for reason, count in sorted(each.failed.items())),
    )
    yield _sums(
        "listener_blocked",
        "Those of them that a listener's protection refused.",
        by_reason,
        (((each.id, reason), count) for each in listeners for reason, count in sorted(each.blocked.items())),
    )


def _handshakes(totals: ServiceTotals) -> Iterator[Metric]:
    handshakes = CounterMetricFamily(
        "symphony_handshakes", "TLS handshakes that ended well.", labels=["version", "cipher", "resumed"]
    )
    for suite, (full, resumed) in sorted(totals.suites.items()):
        version = "" if suite == "other" else "1.3" if suite.startswith("TLS_") else "1.2"
        handshakes.add_metric([version, suite, "no"], full)
        handshakes.add_metric([version, suite, "yes"], resumed)
    yield handshakes
    yield _histogram(
        "handshake_seconds",
        "From the accepting of a connection to the end of its TLS handshake.",
        {"": totals.handshake_time},
    )
    yield _histogram("connect_seconds", "What connecting to an upstream took.", {"": totals.connect_time})


def _histogram(
    name: str, text: str, histograms: Mapping[str, Histogram], label: str = ""
) -> HistogramMetricFamily:
    """One histogram for each value of `label`, or one without any."""
    family = HistogramMetricFamily(f"symphony_{name}", text, labels=[label] if label else [])
    for value, histogram in histograms.items():
        buckets: list[tuple[str, float]] = []
        below = 0
        for bound, count in zip((*BOUNDS_S, float("inf")), histogram.counts, strict=True):
            below += count
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), below))
        family.add_metric([value] if label else [], buckets, histogram.sum_us / 1e6)
    return family


def _named(by_route: Mapping[str, T]) -> dict[str, T]:
    return {route or DEFAULT_ROUTE: found for route, found in by_route.items()}


def _records(kind: str, records: Mapping[str, Totals]) -> Iterator[Metric]:
    """What is counted alike for routes and upstreams."""
    named, label = _named(records), (kind,)
    failures = (
        "Connections that ended early, by route."
        if kind == "route"
        else "Failed attempts to connect, by upstream."
    )
    yield _levels(
        f"{kind}_active",
        f"Connections open now, by {kind}.",
        label,
        (((name,), found.active) for name, found in named.items()),
    )
    yield _sums(
        f"{kind}_connections",
        f"Connections, by {kind}.",
        label,
        (((name,), found.connections) for name, found in named.items()),
    )
    yield _sums(
        f"{kind}_failures", failures, label, (((name,), found.failures) for name, found in named.items())
    )
    yield _moved(
        f"{kind}_bytes",
        f"Bytes moved, by {kind}.",
        label,
        (((name,), found.bytes_up, found.bytes_down) for name, found in named.items()),
    )


def _health(telemetry: Telemetry) -> Iterator[Metric]:
    rows = [
        (route.route or DEFAULT_ROUTE, upstream)
        for route in telemetry.route_states
        for upstream in route.upstreams
    ]
    label = ("route", "upstream")
    yield _levels(
        "upstream_up",
        "Whether an upstream gets new connections of a route: 0 where it is out, down or drained.",
        label,
        (((route, each.upstream), float(each.summary == "up")) for route, each in rows),
    )
    yield _levels(
        "upstream_draining",
        "Whether an operator drains an upstream of a route.",
        label,
        (((route, each.upstream), float(each.summary == "draining")) for route, each in rows),
    )
    yield _levels(
        "route_upstreams",
        "How many upstreams of a route are up, down or draining.",
        ("route", "state"),
        (
            ((route.route or DEFAULT_ROUTE, state), route.count(state))
            for route in telemetry.route_states
            if route.upstreams
            for state in ("up", "down", "draining")
        ),
    )


def _limits(telemetry: Telemetry) -> Iterator[Metric]:
    limits = telemetry.totals.limits
    yield _sums(
        "limits_decided_alone",
        "Connections whose limits acceptors applied alone, by kind of limit.",
        ("limit",),
        [(("source",), limits.sources_alone), (("route",), limits.routes_alone)],
    )
    yield _counter("route_limits_denied", "Connections that a route's limit refused.", limits.routes_denied)
    limiter = telemetry.limiter
    if limiter is not None:
        yield _gauge("limiter_sources", "Sources that the rate limiter remembers.", limiter.sources)
        yield _gauge("limiter_buckets", "Routes' buckets that the rate limiter keeps.", limiter.buckets)
        yield _gauge(
            "limiter_at_limit",
            "Sources that have as many connections open as they may have.",
            limiter.at_limit,
        )


def _certificates(telemetry: Telemetry) -> Iterator[Metric]:
    found, labels = telemetry.certificates, ("certificate", "issuer", "key_type")
    yield _levels(
        "certificate_not_after_timestamp_seconds",
        "When a certificate, or one of its chain, expires: seconds since the epoch.",
        labels,
        (((each.name, each.issuer, each.key_type), each.not_after) for each in found),
    )
    yield _levels(
        "certificate_routes",
        "How many routes show a certificate.",
        labels,
        (((each.name, each.issuer, each.key_type), each.routes) for each in found),
    )


def _actors(telemetry: Telemetry) -> Iterator[Metric]:
    actors, label = telemetry.actors, ("actor",)
    yield _levels(
        "actor_up",
        "Whether an actor runs.",
        label,
        (((each.name,), float(each.state == "running")) for each in actors),
    )
    yield _sums(
        "actor_restarts",
        "How often an actor was started again.",
        label,
        (((each.name,), each.restarts) for each in actors),
    )
    yield _levels(
        "actor_uptime_seconds",
        "How long an actor's process has been there.",
        label,
        (((each.name,), each.uptime_s) for each in actors),
    )
    yield _levels(
        "actor_mailbox_depth",
        "Requests that wait in an actor's mailbox.",
        label,
        (((each.name,), each.depth) for each in actors),
    )
    yield _levels(
        "actor_cpu_seconds",
        "CPU time that an actor's process has used; it begins anew with each process.",
        label,
        (((each.name,), each.cpu_s) for each in actors),
    )
    yield _levels(
        "actor_resident_bytes",
        "An actor's memory, shared pages included.",
        label,
        (((each.name,), each.rss_bytes) for each in actors),
    )
