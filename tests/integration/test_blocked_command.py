"""``symphony blocked`` on a running instance."""

from __future__ import annotations

import json
import os
import signal

from tests.support.acceptor import wait_until
from tests.support.showcase import running_showcase
from tests.support.sources import connect_from, is_turned_away

# What is connected and silent is open for as long as the commands about it may take.
PROTECTION = """
[listeners.protection]
tls_handshake_timeout_ms = 90000
rate_limit = { connections_per_second = 0.001, burst = 4 }
penalty_box = { duration_ms = 90000 }
max_concurrent_per_ip = 2
allowlist = ["127.0.0.1"]
blocklist = ["192.0.2.0/25", "192.0.2.128/25", "2001:db8::/32"]
ja4_blocklist = ["t13d1516h2_8daaf6152771_e5627efa2ab1"]

[[routes]]
"""


def test_who_is_blocked_and_why() -> None:
    with running_showcase() as show:
        symphony, port = show.symphony, show.symphony.port()
        config = show.config.replace("\n[[routes]]\n", PROTECTION, 1)
        nobody = symphony.command("blocked")
        assert (nobody.returncode, nobody.stdout) == (0, "no source exceeds its limits\n")
        symphony.config_file.write_text(config)
        assert symphony.command("reload").returncode == 0
        version = symphony.status().config_version
        wait_until(
            lambda: all(symphony.acceptor(f"acceptor-{at}").version == version for at in (0, 1)), "served"
        )
        held = [connect_from("127.0.1.1", port) for _ in range(2)]
        wait_until(lambda: symphony.status().connections.active == 2, "both are counted")
        others = [connect_from("127.0.1.2", port) for _ in range(4)]  # two are held, and two too many
        wait_until(lambda: symphony.status().connections.errors.get("too_many_connections") == 2, "refused")
        for _ in range(3):
            assert is_turned_away("127.0.1.2", port)
        report = json.loads(symphony.command("blocked", "--json").stdout)
        found = {(entry["source"], entry["reason"]): entry["seconds"] for entry in report["sources"]}
        assert found["127.0.1.1", "too_many_connections"] == 0
        assert 0 < found["127.0.1.2", "penalty_boxed"] <= 90
        assert report["lists"][0]["blocklist"] == ["192.0.2.0/24", "2001:db8::/32"]
        assert report["lists"][0]["allowlist"] == ["127.0.0.1/32"]
        assert report["silent"] == [] and report["left_out"] == 0
        page = symphony.command("blocked").stdout
        assert "127.0.1.2" in page and "penalty_boxed" in page
        assert "blocklist: 192.0.2.0/24, 2001:db8::/32" in page
        assert "ja4_blocklist: t13d1516h2_8daaf6152771_e5627efa2ab1" in page
        few = json.loads(symphony.command("blocked", "--json", "--limit", "0").stdout)
        assert few["sources"] == [] and few["left_out"] == len(report["sources"])
        for sock in (*held, *others):
            sock.close()
        os.kill(symphony.child("route-registry").pid, signal.SIGSTOP)
        partly = symphony.command("blocked")
        assert partly.returncode == 1
        assert "no answer from route-registry" in partly.stderr
        assert "penalty_boxed" in partly.stdout
