"""Metrics of an instance itself: its processes, its configuration and its certificates."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from symphony.observe.metrics.families import By, counter, gauge, gauges
from symphony.observe.telemetry import Telemetry


def instance(telemetry: Telemetry) -> Iterator[Metric]:
    """What there is one of."""
    yield gauge("uptime_seconds", "Since the supervisor began.", telemetry.uptime_s)
    yield gauge("config_version", "The version of the configuration in force.", telemetry.config_version)
    yield gauge("config_problems", "Findings of the last reading of the configuration.", telemetry.problems)
    yield gauge("routes", "Routes in the configuration.", telemetry.routes)
    yield gauge("silent_actors", "Actors that did not answer within a second.", len(telemetry.silent))
    yield counter(
        "log_lines_lost",
        "Log lines that nobody took in time, by all processes.",
        telemetry.totals.log_lines_lost,
    )


def acceptors(telemetry: Telemetry) -> Iterator[Metric]:
    """Each acceptor's part of all that is counted, and what it says of itself."""
    counted = By("acceptor", ((part.name, part) for part in telemetry.totals.acceptors))
    applied = By("acceptor", telemetry.applied.items())
    told = By("acceptor", ((each.name, each) for each in telemetry.acceptors))
    gone = 'all that are gone for good together as "gone"'
    yield counted.counters(
        "acceptor_accepted", f"Connections accepted, by acceptor; {gone}.", lambda part: part.accepted
    )
    yield counted.gauges("acceptor_active", "Connections open now, by acceptor.", lambda part: part.active)
    yield counted.counters(
        "acceptor_handshakes",
        f"TLS handshakes that ended well, by acceptor; {gone}.",
        lambda part: part.handshakes,
    )
    yield counted.counters(
        "acceptor_failed", f"Connections that ended early, by acceptor; {gone}.", lambda part: part.failed
    )
    yield counted.moved_bytes("acceptor_bytes", f"Bytes moved, by acceptor; {gone}.")
    yield applied.gauges(
        "acceptor_config_version",
        "The configuration version that an acceptor serves.",
        lambda version: version,
    )
    yield told.gauges(
        "acceptor_held", "Connections held for a decision now, by acceptor.", lambda each: each.held
    )
    yield told.gauges(
        "acceptor_open_descriptors",
        "File descriptors that an acceptor has open.",
        lambda each: each.descriptors,
    )
    yield told.gauges(
        "acceptor_descriptor_limit",
        "File descriptors that an acceptor may have open.",
        lambda each: each.descriptor_limit,
    )


def certificates(telemetry: Telemetry) -> Iterator[Metric]:
    """Every certificate in use."""
    labels = ("certificate", "issuer", "key_type")
    found = [((each.name, each.issuer, each.key_type), each) for each in telemetry.certificates]
    yield gauges(
        "certificate_not_after_timestamp_seconds",
        "When a certificate, or one of its chain, expires: seconds since the epoch.",
        labels,
        ((values, each.not_after) for values, each in found),
    )
    yield gauges(
        "certificate_routes",
        "How many routes show a certificate.",
        labels,
        ((values, each.routes) for values, each in found),
    )


def actors(telemetry: Telemetry) -> Iterator[Metric]:
    """Every process of the tree."""
    by = By("actor", ((actor.name, actor) for actor in telemetry.actors))
    yield by.gauges("actor_up", "Whether an actor runs.", lambda actor: float(actor.state == "running"))
    yield by.counters("actor_restarts", "How often an actor was started again.", lambda actor: actor.restarts)
    yield by.gauges(
        "actor_uptime_seconds", "How long an actor's process has been there.", lambda actor: actor.uptime_s
    )
    yield by.gauges(
        "actor_mailbox_depth", "Requests that wait in an actor's mailbox.", lambda actor: actor.depth
    )
    yield by.gauges(
        "actor_cpu_seconds",
        "CPU time that an actor's process has used; it begins anew with each process.",
        lambda actor: actor.cpu_s,
    )
    yield by.gauges(
        "actor_resident_bytes", "An actor's memory, shared pages included.", lambda actor: actor.rss_bytes
    )
