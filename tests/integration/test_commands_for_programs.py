"""Every command's ``--json`` and exit code, against a real instance."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from symphony.cli.exits import Exit
from symphony.cli.main import COMMANDS
from symphony.version import __version__
from tests.support.observed import DEAD, Observed, observed_symphony
from tests.support.scrape import scrape_until
from tests.support.symphony_process import run_symphony
from tests.support.tls_client import SteppedClient

FOLLOWED = ("events",)
"""Commands that print until they are interrupted; they have tests of their own."""


@pytest.fixture
def observed() -> Iterator[Observed]:
    with observed_symphony() as observed:
        observed.use_everything()
        scrape_until(
            observed.symphony,
            lambda now: (
                now.of("symphony_connections_accepted_total") == 4
                and now.of("symphony_connections_active") == 0
            ),
        )
        yield observed


def asked(observed: Observed, *words: str, code: Exit = Exit.CLEAN) -> Any:
    done = observed.symphony.command(*words, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_every_command_answers_a_program(observed: Observed) -> None:
    symphony = observed.symphony
    file = str(symphony.config_file)
    seen = {
        "run",
        "upgrade",
        "drain",
        *FOLLOWED,
    }  # upgrade and drain end an instance, and have their own

    def ask(*words: str, code: Exit = Exit.CLEAN) -> Any:
        seen.add(words[0])
        return asked(observed, *words, code=code)

    assert ask("status")["pid"] == symphony.pid
    assert ask("top")["pid"] == symphony.pid
    assert ask("blocked")["silent"] == []
    assert ask("certs")[0]["names"][0] == "localhost"
    reloaded = ask("reload")
    assert (reloaded["changed"], reloaded["failure"], reloaded["version"]) == (False, "", 1)
    drained = ask("upstream", "localhost", observed.upstream, "drain")
    assert (drained["upstream"], drained["mode"], drained["remaining"]) == (observed.upstream, "drain", 0)
    with socket.create_connection(("127.0.0.1", symphony.port()), timeout=10) as sock:
        sock.sendall(SteppedClient("held.example").hello())
        scrape_until(symphony, lambda now: now.of("symphony_connections_held") == 1)
        [held] = ask("suspended")
        assert held["sni"] == "held.example"
        assert ask("resolve", held["id"], "--reject") == {"id": held["id"], "how": "rejected"}
    routes = ask("routes")
    assert [route["route"] for route in routes] == [
        "localhost",
        "dead.example",
        "limited.example",
        "held.example",
    ]
    for words, expected in (
        (("version",), {"version": __version__}),
        (("check", "-c", file), {"file": file, "ok": True, "routes": 4}),
        (("doctor",), None),
    ):
        seen.add(words[0])
        done = run_symphony(*words, "--json")
        assert done.returncode in (Exit.CLEAN, Exit.FAILURE if words[0] == "doctor" else Exit.CLEAN), (
            done.stderr
        )
        told = json.loads(done.stdout)
        assert expected is None or expected.items() <= told.items()
    assert ask("stop") == {"state": "stopped", "pid": symphony.pid, "in_time": True}
    assert seen == set(COMMANDS)


def test_routes_agree_with_status_and_metrics(observed: Observed) -> None:
    symphony = observed.symphony
    metrics = scrape_until(symphony, lambda now: now.of("symphony_connections_accepted_total") == 4)
    for route in asked(observed, "routes"):
        name = route["route"]
        assert route["connections"] == metrics.total("symphony_route_connections_total", route=name)
        assert route["failures"] == metrics.total("symphony_route_failures_total", route=name)
        assert (route["handshake_p50_ms"] is None) == (name == "held.example")
    status = {(each.route, each.upstream): each for each in symphony.status().upstreams}
    routes = asked(observed, "routes")
    told = {(route["route"], each["upstream"]): each for route in routes for each in route["upstreams"]}
    assert told.keys() == status.keys()
    for key, each in told.items():
        assert (each["state"], each["connections"]) == (status[key].state, status[key].connections)
    assert told["dead.example", DEAD]["state"] == "out"
    [only] = asked(observed, "routes", "dead")
    assert only["route"] == "dead.example"
    shown = symphony.command("routes").stdout
    lines = [line.split() for line in shown.splitlines()]
    assert ["localhost", "1", "of", "2", "up"] in [line[:5] for line in lines]
    assert [DEAD, "out"] in [line[:2] for line in lines]
    assert "\x1b" not in shown and "no route" in symphony.command("routes", "nothing-like-it").stdout
    # And after an upgrade they are asked of the one that serves.
    upgraded = asked(observed, "upgrade")
    assert upgraded == {"pid": symphony.serving_pid, "predecessor": symphony.pid}
    assert [route["route"] for route in asked(observed, "routes")] == [route["route"] for route in routes]


def test_exit_codes(observed: Observed) -> None:
    symphony = observed.symphony
    directory = symphony.directory
    broken = directory / "broken.toml"
    broken.write_text("workers = -1\nnonsense = true\n")
    done = run_symphony("check", "-c", str(broken), "--json")
    told = json.loads(done.stdout)
    assert done.returncode == Exit.CONFIGURATION and not told["ok"] and done.stderr == ""
    assert {problem["place"] for problem in told["problems"]} >= {"nonsense"}
    symphony.config_file.write_text(symphony.config_file.read_text().replace("workers = 2", "workers = 0"))
    reloaded = asked(observed, "reload", code=Exit.CONFIGURATION)
    assert not reloaded["changed"] and reloaded["problems"][0]["severity"] == "error"
    assert symphony.command("resolve", "0-nobody-1", "--reject", "--json").returncode == Exit.FAILURE
    assert (
        symphony.command("upstream", "localhost", "unix:/none", "drain", "--json").returncode == Exit.FAILURE
    )
    assert symphony.command("routes", "--nonsense").returncode == Exit.CONFIGURATION
    assert symphony.stop() == Exit.CLEAN
    for name in (
        "status",
        "routes",
        "top",
        "reload",
        "stop",
        "blocked",
        "suspended",
        "certs",
        "upgrade",
        "drain",
    ):
        done = symphony.command(name, "--json")
        assert done.returncode == Exit.NOT_RUNNING, name
        assert done.stdout == "" and done.stderr.count(os.linesep) == 1
