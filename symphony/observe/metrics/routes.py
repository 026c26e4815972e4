"""Metrics by route and by upstream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.metrics_core import Metric

from symphony.config.server_name import DEFAULT_ROUTE
from symphony.messages.totals import ServiceTotals
from symphony.observe.metrics.families import By, gauges, histograms
from symphony.observe.record_totals import Totals
from symphony.observe.telemetry import Telemetry


def routes(totals: ServiceTotals) -> Iterator[Metric]:
    """Connections by route, and the handshakes of those that have a histogram."""
    named = {route or DEFAULT_ROUTE: found for route, found in totals.routes.items()}
    yield from _connections("route", named, "Connections that ended early, by route.")
    yield histograms(
        "route_handshake_seconds",
        "From the accepting of a connection to the end of its TLS handshake, by route (the first 1024).",
        "route",
        {route or DEFAULT_ROUTE: found for route, found in totals.handshake_times.items()},
    )


def upstreams(totals: ServiceTotals) -> Iterator[Metric]:
    """Connections by upstream, and how long connecting took."""
    yield from _connections("upstream", totals.upstreams, "Failed attempts to connect, by upstream.")
    yield By("upstream", totals.upstreams.items()).counters(
        "upstream_connecting_seconds",
        "Time spent connecting, by upstream; over its connections it is the mean.",
        lambda found: found.connect_us / 1e6,
    )
    yield histograms(
        "upstream_connect_seconds",
        "What connecting to an upstream took, by upstream (the first 1024).",
        "upstream",
        totals.connect_times,
    )


def _connections(kind: str, records: Mapping[str, Totals], failures: str) -> Iterator[Metric]:
    """What is counted alike for routes and upstreams; only `failures` are of another nature."""
    by = By(kind, records.items())
    yield by.gauges(f"{kind}_active", f"Connections open now, by {kind}.", lambda found: found.active)
    yield by.counters(f"{kind}_connections", f"Connections, by {kind}.", lambda found: found.connections)
    yield by.counters(f"{kind}_failures", failures, lambda found: found.failures)
    yield by.moved_bytes(f"{kind}_bytes", f"Bytes moved, by {kind}.")


def health(telemetry: Telemetry) -> Iterator[Metric]:
    """Which upstreams of which routes are there for new connections."""
    rows = [
        ((route.route or DEFAULT_ROUTE, upstream.upstream), upstream.summary)
        for route in telemetry.route_states
        for upstream in route.upstreams
    ]
    labels = ("route", "upstream")
    yield gauges(
        "upstream_up",
        "Whether an upstream gets new connections of a route: 0 where it is out, down or drained.",
        labels,
        ((values, float(summary == "up")) for values, summary in rows),
    )
    yield gauges(
        "upstream_draining",
        "Whether an operator drains an upstream of a route.",
        labels,
        ((values, float(summary == "draining")) for values, summary in rows),
    )
    yield gauges(
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
