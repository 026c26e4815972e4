"""Telemetry in the text format that Prometheus scrapes.

Labels are bounded by the configuration: routes, upstreams, listeners, certificates and actors are those that it names,
and reasons and cipher suites are closed sets. Nothing that a client sends becomes a label.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from symphony.observe.metrics.instance import acceptors, actors, certificates, instance
from symphony.observe.metrics.routes import health, routes, upstreams
from symphony.observe.metrics.traffic import connections, handshakes, limits, listeners
from symphony.observe.telemetry import Telemetry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


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
        yield from instance(telemetry)
        yield from connections(telemetry)
        yield from acceptors(telemetry)
        yield from listeners(totals)
        yield from handshakes(totals)
        yield from routes(totals)
        yield from upstreams(totals)
        yield from health(telemetry)
        yield from limits(telemetry)
        yield from certificates(telemetry)
        yield from actors(telemetry)
