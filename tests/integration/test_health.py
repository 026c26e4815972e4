"""Upstreams that stop and come back, seen over all acceptors of a real tree."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from symphony.api.status import UpstreamStatus
from symphony.api.upstreams import gather_upstreams
from tests.support.acceptor import wait_until
from tests.support.backends import Backend, Backends, hold, visit
from tests.support.symphony_process import SymphonyProcess, running_symphony

WORKERS = 3
ACCEPTORS = tuple(f"acceptor-{index}" for index in range(WORKERS))
OUT_MS = 1500
CHECK = {"interval_ms": 150, "timeout_ms": 1000, "rise": 2, "fall": 2}
PASSIVE = ("left-out", "all-out", "killed")
ACTIVE = ("checked", "tls-checked")
HEAD = f'workers = {WORKERS}\n[[listeners]]\nhost = "127.0.0.1"\nport = 0\n'


class Site:
    """A tree with routes of three upstreams each, each route with backends of its own."""

    def __init__(self, stack: ExitStack) -> None:
        enter = stack.enter_context
        self.backends = {name: enter(Backends(3, "tcp")) for name in (*PASSIVE, *ACTIVE)}
        self.backends["unix"] = enter(Backends(3, "uds"))
        keys: dict[str, dict[str, object]] = {name: {"fail_timeout_ms": OUT_MS} for name in self.backends}
        keys["checked"] = keys["unix"] = {"max_fails": 0, "health_check": CHECK}
        keys["tls-checked"] = {"health_check": {**CHECK, "tls": True}}
        routes = [
            f'[[routes]]\nsni = "{name}"\nterminate_tls = false\nupstreams = {backends.entries(**keys[name])}\n'
            for name, backends in self.backends.items()
        ]
        self.symphony: SymphonyProcess = enter(running_symphony(HEAD + "".join(routes)))
        self.port = self.symphony.port()

    def of(self, backend: Backend) -> UpstreamStatus:
        return next(found for found in self.symphony.status().upstreams if found.upstream == backend.label)

    def states(self, backend: Backend) -> set[str]:
        """What the acceptors think of it, each for itself."""
        found = set()
        for name in ACCEPTORS:
            routes = asyncio.run(gather_upstreams(str(self.symphony.runtime_dir), [name]))
            found |= {up.state for route in routes for up in route.upstreams if up.upstream == backend.label}
        return found

    def wait_state(self, backend: Backend, state: str) -> None:
        wait_until(lambda: self.states(backend) == {state}, f"{backend.label} is {state}: {self.of(backend)}")

    def visits(self, name: str, times: int = 30) -> Counter[str]:
        return Counter(visit(self.port, name) for _ in range(times))

    def logged(self, event: str, backend: Backend) -> list[str]:
        return [line["because"] for line in self.symphony.logged(event) if line["upstream"] == backend.label]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack)


def test_one_that_refuses_is_left_out_and_taken_back(site: Site) -> None:
    backends = site.backends["left-out"]
    victim = backends[1]
    backends.stop(victim)
    # Nobody notices: each connection that meets it goes on to another.
    assert set(site.visits("left-out")) == {"b0", "b2"}
    site.wait_state(victim, "out")
    failures = site.of(victim).failures
    # No more than the limit, and those that were under way in other acceptors.
    assert 3 <= failures <= 3 + WORKERS
    wait_until(lambda: site.logged("upstream_down", victim), "it is logged")
    assert len(site.logged("upstream_down", victim)) == 1
    backends.start(victim)
    wait_until(lambda: "b1" in site.visits("left-out", 3), "it is taken back")
    site.wait_state(victim, "up")
    assert set(site.visits("left-out")) == {"b0", "b1", "b2"}
    wait_until(lambda: site.logged("upstream_up", victim), "it is logged")
    assert len(site.logged("upstream_up", victim)) == 1
    assert "3 connections failed" in site.logged("upstream_down", victim)[0]


def test_when_all_are_out_they_are_tried_all_the_same(site: Site) -> None:
    backends = site.backends["all-out"]
    for backend in backends:
        backends.stop(backend)
    for _ in range(8):
        assert visit(site.port, "all-out") == ""
    wait_until(lambda: {site.of(backend).state for backend in backends} <= {"out", "trying"}, "all are out")
    backends.start(backends[2])
    assert site.visits("all-out", 20) == {"b2": 20}  # at once, and not only when its time is over
    for backend in backends[:2]:
        backends.start(backend)
    wait_until(lambda: len(site.visits("all-out", 6)) == 3, "all are back")


def test_killed_acceptor_has_not_forgotten(site: Site) -> None:
    backends, symphony = site.backends["killed"], site.symphony
    backends.stop(backends[0])
    held: list[socket.socket] = []
    with ExitStack() as stack:
        while site.of(backends[0]).state == "up":
            held.append(stack.enter_context(hold(site.port, "killed")[0]))
        site.wait_state(backends[0], "out")
        for name in ACCEPTORS:
            before = symphony.kill_child(name).restarts
            wait_until(lambda: symphony.child(name).restarts > before, "it is started again")  # noqa: B023
            symphony.wait_running(name)
            assert site.states(backends[0]) == {"out"}
    backends.start(backends[0])
    wait_until(lambda: "b0" in site.visits("killed", 3), "it is taken back")


@pytest.mark.parametrize("name", ["checked", "unix"])
def test_checked_service_that_stops_and_returns(site: Site, name: str) -> None:
    backends = site.backends[name]
    victim = backends[2]
    site.wait_state(victim, "up")
    before = site.of(victim)
    backends.stop(victim)
    site.wait_state(victim, "down")  # without any connection of a client
    assert set(site.visits(name)) == {"b0", "b1"}
    backends.start(victim)
    site.wait_state(victim, "up")
    assert set(site.visits(name)) == {"b0", "b1", "b2"}
    after = site.of(victim)
    assert after.failures == before.failures  # checks are no connections
    wait_until(lambda: site.logged("upstream_up", victim), "it is logged")
    assert len(site.logged("upstream_down", victim)) == len(site.logged("upstream_up", victim)) == 1


def test_checks_do_not_multiply_with_the_acceptors(site: Site) -> None:
    backend = site.backends["checked"][0]
    rounds = 12
    site.wait_state(backend, "up")
    before, began = backend.accepted, time.monotonic()
    wait_until(lambda: backend.accepted >= before + rounds, "some checks are done")
    # Each acceptor for itself would have done them in a third of the time. A busy machine only takes longer.
    assert time.monotonic() - began > (rounds - 2) * CHECK["interval_ms"] / 1000


def test_service_that_speaks_no_tls_fails_its_checks(site: Site) -> None:
    backends = site.backends["tls-checked"]
    for backend in backends:
        site.wait_state(backend, "down")
    # And is tried all the same, since there is no other.
    assert visit(site.port, "tls-checked") in {"b0", "b1", "b2"}


def test_state_outlives_a_reload(site: Site) -> None:
    backends, symphony = site.backends["checked"], site.symphony
    backends.stop(backends[0])
    site.wait_state(backends[0], "down")
    text = symphony.config_file.read_text()
    symphony.config_file.write_text(
        text.replace("[[listeners]]", "[[listeners]]\nidle_timeout_ms = 45000", 1)
    )
    done = symphony.command("reload")
    assert done.returncode == 0, done.stderr
    version = symphony.status().config_version
    wait_until(
        lambda: {symphony.acceptor(name).version for name in ACCEPTORS} == {version},
        "all serve it",
    )
    assert site.of(backends[0]).state == "down"
    backends.start(backends[0])
    site.wait_state(backends[0], "up")


def test_status_shows_them(site: Site) -> None:
    site.visits("unix", 6)
    done = site.symphony.command("status", "--json")
    assert done.returncode == 0, done.stderr
    shown = {entry["upstream"]: entry for entry in json.loads(done.stdout)["upstreams"]}
    for name, backends in site.backends.items():
        for backend in backends:
            assert shown[backend.label]["route"] == name
    entry = shown[site.backends["unix"][0].label]
    assert entry["weight"] == 1 and entry["connections"] >= 1 and entry["connect_mean_ms"] > 0
    page = site.symphony.command("status").stdout
    assert site.backends["unix"][0].label in page
    assert [line for line in page.splitlines() if "tls-checked" in line and " down " in line]
