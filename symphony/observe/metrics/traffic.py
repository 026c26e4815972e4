"""Metrics of connections on their way in: all of them, by listener, their handshakes and their limits."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from symphony.messages.totals import ServiceTotals
from symphony.observe.metrics.families import By, counter, counters, gauge, histogram, moved_bytes
from symphony.observe.telemetry import Telemetry


def connections(telemetry: Telemetry) -> Iterator[Metric]:
    """All connections together."""
    totals = telemetry.totals
    yield counter("connections_accepted", "Connections accepted.", totals.accepted)
    yield gauge("connections_active", "Connections open now.", totals.active)
    yield gauge("connections_held", "Connections held for a decision now.", telemetry.held)
    yield moved_bytes("bytes", "Bytes moved.", (), [((), totals)])
    yield counters(
        "connections_failed",
        "Connections that ended early, by reason.",
        ("reason",),
        (((reason,), count) for reason, count in sorted(totals.errors.items())),
    )


def listeners(totals: ServiceTotals) -> Iterator[Metric]:
    """Connections by listener."""
    by = By("listener", ((listener.id, listener) for listener in totals.listeners))
    yield by.counters(
        "listener_accepted", "Connections accepted, by listener.", lambda listener: listener.accepted
    )
    yield by.gauges("listener_active", "Connections open now, by listener.", lambda listener: listener.active)
    yield by.counters(
        "listener_handshakes",
        "TLS handshakes that ended well, by listener.",
        lambda listener: listener.handshakes,
    )
    yield by.moved_bytes("listener_bytes", "Bytes moved, by listener.")
    yield by.counters_by_reason(
        "listener_failed",
        "Connections that ended early, by listener and reason.",
        lambda listener: listener.failed,
    )
    yield by.counters_by_reason(
        "listener_blocked",
        "Those of them that a listener's protection refused.",
        lambda listener: listener.blocked,
    )


def handshakes(totals: ServiceTotals) -> Iterator[Metric]:
    """Handshakes by cipher suite, and the times that clients wait."""
    rows: list[tuple[tuple[str, ...], float]] = []
    for suite, (full, resumed) in sorted(totals.suites.items()):
        version = "" if suite == "other" else "1.3" if suite.startswith("TLS_") else "1.2"
        rows += [((version, suite, "no"), full), ((version, suite, "yes"), resumed)]
    yield counters("handshakes", "TLS handshakes that ended well.", ("version", "cipher", "resumed"), rows)
    yield histogram(
        "handshake_seconds",
        "From the accepting of a connection to the end of its TLS handshake.",
        totals.handshake_time,
    )
    yield histogram("connect_seconds", "What connecting to an upstream took.", totals.connect_time)


def limits(telemetry: Telemetry) -> Iterator[Metric]:
    """What came of limits, and what the rate limiter keeps."""
    counted = telemetry.totals.limits
    yield counters(
        "limits_decided_alone",
        "Connections whose limits acceptors applied alone, by kind of limit.",
        ("limit",),
        [(("source",), counted.sources_alone), (("route",), counted.routes_alone)],
    )
    yield counter("route_limits_denied", "Connections that a route's limit refused.", counted.routes_denied)
    limiter = telemetry.limiter
    if limiter is not None:
        yield gauge("limiter_sources", "Sources that the rate limiter remembers.", limiter.sources)
        yield gauge("limiter_buckets", "Routes' buckets that the rate limiter keeps.", limiter.buckets)
        yield gauge(
            "limiter_at_limit",
            "Sources that have as many connections open as they may have.",
            limiter.at_limit,
        )
