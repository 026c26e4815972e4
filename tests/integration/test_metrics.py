"""What a real instance tells of routes, upstreams, certificates, limits and itself, in numbers."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from symphony.observe.admin_app import FRESH_S
from symphony.tls.certificate_facts import read_facts
from symphony.tls.certificate_maker import make_certificate
from tests.support.observed import DEAD, MADE, Observed, observed_symphony
from tests.support.scrape import Scrape, scrape_until
from tests.support.symphony_process import SymphonyProcess
from tests.support.tls_client import client_context


@pytest.fixture(scope="module")
def observed() -> Iterator[Observed]:
    with observed_symphony() as observed:
        yield observed


@pytest.fixture
def symphony(observed: Observed) -> SymphonyProcess:
    return observed.symphony


def settled(symphony: SymphonyProcess, before: Scrape, connections: int) -> Scrape:
    """A scrape in which so many more connections than `before` have come and gone."""
    accepted = before.total("symphony_connections_accepted_total") + connections
    return scrape_until(
        symphony,
        lambda now: (
            now.total("symphony_connections_accepted_total") == accepted
            and now.total("symphony_connections_active") == 0
        ),
    )


def at_rest(symphony: SymphonyProcess) -> Scrape:
    time.sleep(FRESH_S)  # what is told may be so old, and not know of the last test's connections
    return scrape_until(symphony, lambda now: now.of("symphony_connections_active") == 0)


def upstream_states(found: Scrape, route: str) -> list[float | None]:
    return [
        found.of("symphony_route_upstreams", route=route, state=state) for state in ("up", "down", "draining")
    ]


def test_routes_upstreams_and_their_health(observed: Observed, symphony: SymphonyProcess) -> None:
    before = at_rest(symphony)
    for _ in range(4):
        assert observed.ask("localhost")
    assert not observed.ask("dead.example")
    found = settled(symphony, before, 5)
    assert upstream_states(found, "localhost") == [1, 1, 0]
    assert upstream_states(found, "dead.example") == [0, 1, 0]
    assert found.of("symphony_route_upstreams", route="held.example", state="up") is None
    dead = DEAD
    assert found.of("symphony_upstream_up", route="localhost", upstream=dead) == 0
    failures = found.of("symphony_upstream_failures_total", upstream=dead)
    assert failures is not None and failures >= 1
    assert found.of("symphony_route_failures_total", route="dead.example") == 1

    def more(name: str, **labels: str) -> float:
        return found.total(name, **labels) - before.total(name, **labels)

    assert more("symphony_route_handshake_seconds_count", route="localhost") == 4
    assert more("symphony_route_handshake_seconds_count", route="dead.example") == 1
    assert more("symphony_upstream_connect_seconds_count") == 4
    assert found.total("symphony_upstream_connect_seconds_count", upstream=dead) == 0
    label = next(
        dict(labels)["upstream"]
        for name, labels in found.values
        if name == "symphony_upstream_connections_total"
    )
    assert symphony.command("upstream", "localhost", label, "drain").returncode == 0
    try:
        found = scrape_until(symphony, lambda now: upstream_states(now, "localhost") == [0, 1, 1])
        assert found.of("symphony_upstream_draining", route="localhost", upstream=label) == 1
        assert found.of("symphony_upstream_draining", route="limited.example", upstream=label) == 0
    finally:
        assert symphony.command("upstream", "localhost", label, "ready").returncode == 0


def test_refusals_and_limits(observed: Observed, symphony: SymphonyProcess) -> None:
    before = at_rest(symphony)
    assert not observed.ask("localhost", listener=1)
    answers = [observed.ask("limited.example") for _ in range(4)]
    assert True in answers and False in answers
    found = settled(symphony, before, 5)
    listeners = {
        dict(labels)["listener"]
        for name, labels in found.values
        if name == "symphony_listener_accepted_total"
    }
    assert len(listeners) == 2
    denied = found.of("symphony_route_limits_denied_total")
    assert denied == answers.count(False) + (before.of("symphony_route_limits_denied_total") or 0)
    assert found.of("symphony_connections_failed_total", reason="rate_limited") == denied
    assert found.total("symphony_listener_blocked_total", reason="cidr_blocked") == 1
    assert found.of("symphony_limits_decided_alone_total", limit="route") is not None
    assert found.of("symphony_limiter_buckets") == 1
    assert found.gone_back(before) == []


def test_totals_are_the_sums_of_their_parts(observed: Observed, symphony: SymphonyProcess) -> None:
    before = at_rest(symphony)
    assert observed.ask("localhost")
    found = settled(symphony, before, 1)
    for part in ("acceptor", "listener"):
        assert found.total(f"symphony_{part}_accepted_total") == found.of(
            "symphony_connections_accepted_total"
        )
        assert found.total(f"symphony_{part}_handshakes_total") == found.total("symphony_handshakes_total")
        assert found.total(f"symphony_{part}_failed_total") == found.total(
            "symphony_connections_failed_total"
        )
        for way in ("up", "down"):
            moved = found.total(f"symphony_{part}_bytes_total", direction=way)
            assert moved == found.of("symphony_bytes_total", direction=way) > 0
    assert found.total("symphony_route_handshake_seconds_count") == found.of(
        "symphony_handshake_seconds_count"
    )
    assert found.total("symphony_upstream_connect_seconds_count") == found.of(
        "symphony_connect_seconds_count"
    )


def test_held_connections_certificates_and_processes(symphony: SymphonyProcess) -> None:
    facts = read_facts(MADE.chain_pem)
    with socket.create_connection(("127.0.0.1", symphony.port()), timeout=10) as sock:
        tls = client_context().wrap_bio(
            incoming := ssl.MemoryBIO(), outgoing := ssl.MemoryBIO(), server_hostname="held.example"
        )
        with suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        assert not incoming.pending
        sock.sendall(outgoing.read())
        found = scrape_until(symphony, lambda now: now.of("symphony_connections_held") == 1)
        assert found.total("symphony_acceptor_held") == 1
    expires = found.of(
        "symphony_certificate_not_after_timestamp_seconds",
        certificate=facts.names[0],
        issuer=facts.issuer,
        key_type=facts.key_type,
    )
    assert expires == facts.not_after
    for name in ("acceptor-0", "acceptor-1"):
        assert found.of("symphony_acceptor_config_version", acceptor=name) == found.of(
            "symphony_config_version"
        )
        in_use, limit = (
            found.of(f"symphony_acceptor_{what}", acceptor=name)
            for what in ("open_descriptors", "descriptor_limit")
        )
        assert in_use and limit and 5 < in_use < limit
    for name in ("supervisor", "route-registry", "rate-limiter", "admin"):
        assert found.of("symphony_actor_up", actor=name) == 1
        assert found.of("symphony_actor_mailbox_depth", actor=name) is not None
        assert found.of("symphony_actor_restarts_total", actor=name) == 0
    assert found.of("symphony_log_lines_lost_total") == 0
    assert found.of("symphony_silent_actors") == 0


def test_a_renewed_certificate_is_seen(symphony: SymphonyProcess) -> None:
    expires = "symphony_certificate_not_after_timestamp_seconds"
    renewed = make_certificate(["localhost", "*.example"], not_after=datetime.now(UTC) + timedelta(days=3))
    for made in (renewed, MADE):
        symphony.write("cert.pem", made.chain_pem)
        symphony.write("key.pem", made.key_pem)
        assert symphony.command("reload").returncode == 0
        not_after = read_facts(made.chain_pem).not_after
        found = scrape_until(symphony, lambda now, wanted=not_after: now.total(expires) == wanted)  # type: ignore[misc]
        assert found.total("symphony_certificate_routes") == 4
