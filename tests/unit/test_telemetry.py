"""Sums over acceptors, and the text that Prometheus reads."""

from __future__ import annotations

from typing import Any

from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

from symphony.messages.totals import ListenerCounts, PageTotals
from symphony.observe.exposition import render
from symphony.observe.histogram import BOUNDS_S, Histogram
from symphony.observe.records import Totals
from symphony.observe.telemetry import ActorTelemetry, Telemetry, add_pages, at_rest

HISTOGRAM = Histogram(tuple(range(len(BOUNDS_S) + 1)), 2_500_000)
PAGE = PageTotals(
    name="acceptor-0",
    accepted=10,
    active=3,
    bytes_up=100,
    bytes_down=200,
    handshakes=7,
    resumed=2,
    errors={"not_tls": 2, "no_sni": 1},
    listeners=(ListenerCounts("l", "127.0.0.1:1", 10, 3, {"cidr_blocked": 1}),),
    suites={"TLS_AES_128_GCM_SHA256": (5, 2)},
    handshake_time=HISTOGRAM,
    connect_time=Histogram(),
    routes={"": Totals(1, 4, 1, 50, 60, 0), 'odd"\\\n': Totals(0, 1, 0, 0, 0, 0)},
    upstreams={"unix:/a": Totals(1, 5, 2, 50, 60, 1_500_000)},
)
OTHER = structs.replace(
    PAGE,
    name="acceptor-1",
    errors={"not_tls": 1},
    suites={"other": (1, 0)},
    routes={"": Totals(1, 1, 0, 1, 1, 0)},
    listeners=(
        ListenerCounts("l", "127.0.0.1:1", 1, 1, {"cidr_blocked": 1, "no_sni": 4}),
        ListenerCounts("m", "127.0.0.1:2", 2, 2, {}),
    ),
)


def telemetry(totals: PageTotals) -> Telemetry:
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
        silent=(),
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


def test_totals_are_the_sums_of_their_parts() -> None:
    added = add_pages([PAGE, OTHER])
    assert (added.accepted, added.active, added.bytes_up, added.handshakes) == (20, 6, 200, 14)
    assert added.errors == {"not_tls": 3, "no_sni": 1}
    assert added.listeners == (
        ListenerCounts("l", "127.0.0.1:1", 11, 4, {"cidr_blocked": 2, "no_sni": 4}),
        ListenerCounts("m", "127.0.0.1:2", 2, 2, {}),
    )
    assert added.suites == {"TLS_AES_128_GCM_SHA256": (5, 2), "other": (1, 0)}
    assert added.handshake_time == HISTOGRAM + HISTOGRAM
    assert added.routes[""] == Totals(2, 5, 1, 51, 61, 0)
    assert added.upstreams["unix:/a"] == Totals(2, 10, 4, 100, 120, 3_000_000)
    assert add_pages([]).accepted == 0


def test_one_that_is_away_keeps_its_totals_and_holds_nothing() -> None:
    resting = at_rest(PAGE)
    assert resting.active == resting.listeners[0].active == resting.routes[""].active == 0
    assert (resting.accepted, resting.routes[""].connections) == (10, 4)
    assert at_rest(resting) == resting


def test_the_text_says_what_there_is() -> None:
    found = samples(render(telemetry(add_pages([PAGE, OTHER]))))
    assert found["symphony_info", (("version", "1.2.3"),)] == 1
    assert found["symphony_connections_accepted_total", ()] == 20
    assert found["symphony_connections_failed_total", (("reason", "not_tls"),)] == 3
    assert found["symphony_listener_blocked_total", (("listener", "l"), ("reason", "no_sni"))] == 4
    assert found["symphony_route_connections_total", (("route", "default"),)] == 5
    assert found["symphony_route_connections_total", (("route", 'odd"\\\n'),)] == 1
    assert found["symphony_upstream_connect_seconds_total", (("upstream", "unix:/a"),)] == 3
    assert found["symphony_actor_up", (("actor", "admin"),)] == 0
    assert found["symphony_actor_restarts_total", (("actor", "acceptor-0"),)] == 2
    tls = (("cipher", "TLS_AES_128_GCM_SHA256"), ("resumed", "yes"), ("version", "1.3"))
    assert found["symphony_handshakes_total", tls] == 2


def test_histograms_are_cumulative_and_whole() -> None:
    found = samples(render(telemetry(PAGE)))
    buckets = [
        value
        for (name, labels), value in found.items()
        if name == "symphony_handshake_seconds_bucket" and labels
    ]
    assert buckets == sorted(buckets) and len(buckets) == len(BOUNDS_S) + 1
    assert found["symphony_handshake_seconds_bucket", (("le", "+Inf"),)] == HISTOGRAM.count
    assert found["symphony_handshake_seconds_count", ()] == HISTOGRAM.count
    assert found["symphony_handshake_seconds_sum", ()] == 2.5
