"""What an instance is in numbers, and the text that Prometheus reads."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

from symphony.messages.totals import AcceptorCounts, LimitCounts, ListenerCounts, ServiceTotals
from symphony.observe.exposition import render
from symphony.observe.histogram import BOUNDS_S, Histogram
from symphony.observe.record_totals import Totals
from symphony.observe.telemetry import (
    AcceptorTelemetry,
    ActorTelemetry,
    CertificateState,
    LimiterTelemetry,
    RouteState,
    Telemetry,
    UpstreamState,
)

HISTOGRAM = Histogram(tuple(range(len(BOUNDS_S) + 1)), 2_500_000)
TOTALS = ServiceTotals(
    accepted=20,
    active=6,
    bytes_up=200,
    bytes_down=400,
    handshakes=14,
    resumed=2,
    errors={"not_tls": 3, "no_sni": 1},
    listeners=(
        ListenerCounts(
            "l", "127.0.0.1:1", 11, 4, {"no_sni": 4}, "open", 9, 150, 300, {"no_sni": 4, "not_tls": 3}
        ),
        ListenerCounts("m", "", 9, 2, {}, "closed", 5, 50, 100, {}),
    ),
    suites={"TLS_AES_128_GCM_SHA256": (10, 2), "other": (2, 0)},
    handshake_time=HISTOGRAM,
    connect_time=Histogram(),
    acceptors=(
        AcceptorCounts("gone", 5, 0, 50, 100, 4, 1, serving=False),
        AcceptorCounts("acceptor-0", 15, 6, 150, 300, 10, 3),
    ),
    limits=LimitCounts(4, 5, 6),
    log_lines_lost=7,
    routes={"": Totals(2, 5, 1, 51, 61, 0), 'odd"\\\n': Totals(0, 1, 0, 0, 0, 0)},
    upstreams={"unix:/a": Totals(2, 10, 4, 100, 120, 3_000_000)},
    handshake_times={"": HISTOGRAM},
    connect_times={"unix:/a": HISTOGRAM},
)


def telemetry(totals: ServiceTotals = TOTALS) -> Telemetry:
    actor = ActorTelemetry("acceptor-0", "acceptor", "acceptors", 5, "running", 2, 1.0, 3, "", 0.5, 1000)
    return Telemetry(
        at=1.0,
        version="1.2.3",
        pid=4,
        uptime_s=9.5,
        config_file="/x",
        config_version=7,
        routes=2,
        problems=1,
        applied={"acceptor-0": 7},
        actors=(actor, structs.replace(actor, name="admin", state="backing off")),
        totals=totals,
        held=1,
        silent=("cpu-sampler",),
        acceptors=(AcceptorTelemetry("acceptor-0", 1, 40, 1024),),
        route_states=(
            RouteState(
                "",
                (
                    UpstreamState("unix:/a", "up", "ready"),
                    UpstreamState("unix:/b", "out", "ready"),
                    UpstreamState("unix:/c", "down", "drain"),
                    UpstreamState("unix:/d", "up", "down"),
                ),
            ),
            RouteState("held.example", ()),
        ),
        certificates=(CertificateState("*.example", "R11", "EC secp256r1", 0.5, 1.8e9, 3),),
        limiter=LimiterTelemetry(1, 2, 3),
    )


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found: dict[Any, float] = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def test_the_text_says_what_there_is() -> None:
    found = samples(render(telemetry()))
    assert found["symphony_info", (("version", "1.2.3"),)] == 1
    assert found["symphony_connections_accepted_total", ()] == 20
    assert found["symphony_connections_failed_total", (("reason", "not_tls"),)] == 3
    assert found["symphony_listener_blocked_total", (("listener", "l"), ("reason", "no_sni"))] == 4
    assert found["symphony_route_connections_total", (("route", "default"),)] == 5
    assert found["symphony_route_connections_total", (("route", 'odd"\\\n'),)] == 1
    assert found["symphony_upstream_connecting_seconds_total", (("upstream", "unix:/a"),)] == 3
    assert found["symphony_actor_up", (("actor", "admin"),)] == 0
    assert found["symphony_actor_restarts_total", (("actor", "acceptor-0"),)] == 2
    tls = (("cipher", "TLS_AES_128_GCM_SHA256"), ("resumed", "yes"), ("version", "1.3"))
    assert found["symphony_handshakes_total", tls] == 2


def test_histograms_are_cumulative_and_whole() -> None:
    found = samples(render(telemetry()))
    buckets = [
        value
        for (name, labels), value in found.items()
        if name == "symphony_handshake_seconds_bucket" and labels
    ]
    assert buckets == sorted(buckets) and len(buckets) == len(BOUNDS_S) + 1
    assert found["symphony_handshake_seconds_bucket", (("le", "+Inf"),)] == HISTOGRAM.count
    assert found["symphony_handshake_seconds_count", ()] == HISTOGRAM.count
    assert found["symphony_handshake_seconds_sum", ()] == 2.5
    assert found["symphony_route_handshake_seconds_sum", (("route", "default"),)] == 2.5
    assert found["symphony_upstream_connect_seconds_count", (("upstream", "unix:/a"),)] == HISTOGRAM.count


def test_health_limits_certificates_and_descriptors() -> None:
    found = samples(render(telemetry()))

    def up(upstream: str) -> tuple[float, float]:
        labels = (("route", "default"), ("upstream", upstream))
        return found["symphony_upstream_up", labels], found["symphony_upstream_draining", labels]

    assert [up(f"unix:/{name}") for name in "abcd"] == [(1, 0), (0, 0), (0, 1), (0, 0)]
    states = {
        dict(labels)["state"]: value
        for (name, labels), value in found.items()
        if name == "symphony_route_upstreams"
    }
    assert states == {"up": 1, "down": 2, "draining": 1}, "and nothing of a route that has no upstreams"
    certificate = (("certificate", "*.example"), ("issuer", "R11"), ("key_type", "EC secp256r1"))
    assert found["symphony_certificate_not_after_timestamp_seconds", certificate] == 1.8e9
    assert found["symphony_limits_decided_alone_total", (("limit", "route"),)] == 5
    assert found["symphony_route_limits_denied_total", ()] == 6
    assert found["symphony_log_lines_lost_total", ()] == 7
    assert found["symphony_silent_actors", ()] == 1
    assert found["symphony_acceptor_open_descriptors", (("acceptor", "acceptor-0"),)] == 40
    assert "symphony_limiter_sources" not in {
        name for name, _ in samples(render(structs.replace(telemetry(), limiter=None)))
    }


def test_totals_are_the_sums_of_their_parts() -> None:
    found = samples(render(telemetry()))

    def total(name: str, **wanted: str) -> float:
        return sum(
            value
            for (found_name, labels), value in found.items()
            if found_name == name and wanted.items() <= dict(labels).items()
        )

    for part in ("acceptor", "listener"):
        assert total(f"symphony_{part}_accepted_total") == found["symphony_connections_accepted_total", ()]
        assert total(f"symphony_{part}_active") == found["symphony_connections_active", ()]
        assert total(f"symphony_{part}_handshakes_total") == total("symphony_handshakes_total")
        for way in ("up", "down"):
            assert total(f"symphony_{part}_bytes_total", direction=way) == total(
                "symphony_bytes_total", direction=way
            )


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_the_metrics_are_named_as_prometheus_wants_them() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=render(telemetry()),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_the_documentation_lists_every_metric() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()
    listed = [line for line in text.splitlines() if line.startswith("| `")]
    there = []
    for family in text_string_to_metric_families(render(telemetry()).decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
        cells = (f"`{name}`", family.type, ", ".join(f"`{label}`" for label in labels), family.documentation)
        there.append(f"| {' | '.join(cells)} |")
    assert listed == there
