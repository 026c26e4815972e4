"""The admin interface of a real instance: what it says, and that it keeps saying it while actors die."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from symphony.api.status import Status
from symphony.tls.certificate_maker import make_certificate
from tests.support.ports import lasting_port
from tests.support.scrape import ask, scrape, scrape_until
from tests.support.services import Service
from tests.support.symphony_process import SymphonyProcess, actor, running_symphony
from tests.support.tls_client import get

LIMIT_S = 15.0


def client() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.fixture
def symphony() -> Iterator[SymphonyProcess]:
    made = make_certificate(["localhost"])
    with (
        Service("one") as service,
        running_symphony(
            f"""
workers = 2
[admin]
[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = {{ cert_chain_file = "cert.pem", private_key_file = "key.pem" }}
[[routes]]
sni = ""
upstreams = [{{ kind = "uds", path = "{service.path}" }}]
""",
            files={"cert.pem": made.chain_pem, "key.pem": made.key_pem},
        ) as running,
    ):
        yield running


def test_no_counter_goes_back_whatever_dies(symphony: SymphonyProcess) -> None:
    context = client()
    for _ in range(10):
        get(symphony.port(), "localhost", context)
    before = scrape_until(symphony, lambda found: found.of("symphony_route_active", route="default") == 0)
    assert before.of("symphony_connections_accepted_total") == 10
    assert before.of("symphony_route_connections_total", route="default") == 10
    assert os.stat(symphony.runtime_dir / "admin-http.sock").st_mode & 0o777 == 0o600
    for victim in ("acceptor-0", "acceptor-1", "route-registry", "rate-limiter", "acceptor-0"):
        os.kill(symphony.pid_of(victim), signal.SIGKILL)
        restarts = actor(symphony.status(), victim).restarts
        deadline = time.monotonic() + LIMIT_S
        while True:  # while it is away, and until it is back
            after = scrape(symphony)
            assert after.gone_back(before) == []
            before = after
            now = actor(symphony.status(), victim)
            if now.state == "running" and now.restarts > restarts - 1:
                break
            assert time.monotonic() < deadline
        symphony.wait_running(victim)
    get(symphony.port(), "localhost", context)
    scrape_until(symphony, lambda found: found.of("symphony_connections_accepted_total") == 11)


def test_what_retired_acceptors_counted_outlives_the_admin_actor(symphony: SymphonyProcess) -> None:
    context = client()
    before = scrape(symphony)

    def of_one_acceptor(labels: Mapping[str, str]) -> bool:
        return labels.get("acceptor", "").startswith("acceptor-") or "actor" in labels

    def settled(status: Status) -> bool:
        return sum(one.kind == "acceptor" for one in status.actors) == workers

    for workers in (3, 1, 2):
        for _ in range(4):
            get(symphony.port(), "localhost", context)
        text = symphony.config_file.read_text()
        symphony.config_file.write_text(re.sub("workers = .", f"workers = {workers}", text))
        assert symphony.command("reload").returncode == 0
        symphony.wait_for(settled)
        os.kill(symphony.pid_of("admin"), signal.SIGKILL)
        after = scrape_until(symphony, lambda found: found.of("symphony_route_active", route="default") == 0)
        assert after.gone_back(before, but=of_one_acceptor) == []
        before = after
    assert before.of("symphony_connections_accepted_total") == 12
    assert before.of("symphony_acceptor_accepted_total", acceptor="gone") == 12
    assert before.of("symphony_route_connections_total", route="default") == 12
    assert before.of("symphony_route_handshake_seconds_count", route="default") == 12
    assert before.total("symphony_upstream_connect_seconds_count") == 12
    assert before.total("symphony_listener_accepted_total") == 12


def test_its_own_death_is_nobody_elses(symphony: SymphonyProcess) -> None:
    context = client()
    get(symphony.port(), "localhost", context)
    os.kill(symphony.pid_of("admin"), signal.SIGKILL)
    get(symphony.port(), "localhost", context)
    symphony.wait_for(lambda status: actor(status, "admin").restarts == 1)
    symphony.wait_running("admin")
    assert scrape(symphony).of("symphony_connections_accepted_total") == 2
    assert symphony.stop() == 0
    assert not (symphony.runtime_dir / "admin-http.sock").exists()


def test_health_and_json(symphony: SymphonyProcess) -> None:
    assert ask(symphony, "/health/live") == (200, b'{"status":"ok"}')
    assert ask(symphony, "/health/ready") == (200, b'{"status":"ok"}')
    status, body = ask(symphony, "/metrics.json")
    assert status == 200
    told = json.loads(body)
    assert told["pid"] == symphony.pid and set(told["applied"]) == {"acceptor-0", "acceptor-1"}
    assert ask(symphony, "/other")[0] == 404
    os.kill(symphony.pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + LIMIT_S
        while ask(symphony, "/health/live")[0] != 503:
            assert time.monotonic() < deadline
        assert ask(symphony, "/health/ready")[0] == 200
    finally:
        os.kill(symphony.pid, signal.SIGCONT)


def test_a_port(tmp_path: Path) -> None:
    port = lasting_port()
    made = make_certificate(["localhost"])
    config = f"""
workers = 1
admin = {{ port = {port}, socket_path = "own.sock" }}
[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = {{ cert_chain_file = "cert.pem", private_key_file = "key.pem" }}
[[routes]]
sni = ""
upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = 1 }}]
"""
    files = {"cert.pem": made.chain_pem, "key.pem": made.key_pem}
    with running_symphony(config, files=files) as symphony:
        found = subprocess.run(
            ["curl", "-s", "-m", "10", f"http://127.0.0.1:{port}/metrics"],
            capture_output=True,
            timeout=20,
            check=True,
        )
        assert b"symphony_uptime_seconds" in found.stdout
        assert (symphony.directory / "own.sock").is_socket()
