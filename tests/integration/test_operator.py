"""An operator takes upstreams out of routes and back in, in a real tree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.acceptor import wait_until
from tests.support.backends import Backends, hold, visit
from tests.support.symphony_process import SymphonyProcess, running_symphony

WORKERS = 2
ACCEPTORS = tuple(f"acceptor-{index}" for index in range(WORKERS))
HEAD = f'workers = {WORKERS}\n[[listeners]]\nhost = "127.0.0.1"\nport = 0\n'


class Site:
    def __init__(self, stack: ExitStack) -> None:
        self.backends: Backends = stack.enter_context(Backends(3))
        rows = self.backends.entries()
        routes = "".join(
            f'[[routes]]\nsni = "{sni}"\nterminate_tls = false\nupstreams = {rows}\n'
            for sni in ("a.test", "")
        )
        self.symphony: SymphonyProcess = stack.enter_context(running_symphony(HEAD + routes))
        self.port = self.symphony.port()

    def set(self, route: str, backend: int, mode: str) -> str:
        done = self.symphony.command("upstream", route, self.backends[backend].label, mode)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def visits(self, name: str) -> set[str]:
        return {visit(self.port, name) for _ in range(12)}

    def kill(self, name: str) -> None:
        before = self.symphony.kill_child(name).restarts
        wait_until(lambda: self.symphony.child(name).restarts > before, "it is started again")
        self.symphony.wait_running(name)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack)


def test_drain_and_back(site: Site) -> None:
    held = [hold(site.port, "a.test") for _ in range(9)]
    assert {name for _, name in held} == {"b0", "b1", "b2"}
    label = site.backends[1].label
    assert site.set("a.test", 1, "drain") == f"{label} is set to drain in a.test: 3 connections open\n"
    assert site.visits("a.test") == {"b0", "b2"}
    assert site.visits("any.other") == {"b0", "b1", "b2"}  # another route
    wait_until(lambda: site.backends[1].open == 3, "only those that were held are left")
    # It outlives acceptors, the registry and reloads.
    site.kill("acceptor-0")
    site.kill("route-registry")
    text = site.symphony.config_file.read_text()
    site.symphony.config_file.write_text(
        text.replace("[[listeners]]", "[[listeners]]\nidle_timeout_ms = 50000", 1)
    )
    assert site.symphony.command("reload").returncode == 0
    version = site.symphony.status().config_version
    wait_until(
        lambda: {site.symphony.acceptor(name).version for name in ACCEPTORS} == {version}, "all serve it"
    )
    # Which of the others is the least loaded depends on whom the killed acceptor's connections were with.
    assert site.visits("a.test") <= {"b0", "b2"}
    modes = {
        (up.route, up.upstream): up.mode for up in site.symphony.status().upstreams if up.mode != "ready"
    }
    assert modes == {("a.test", label): "drain"}
    assert [
        line for line in site.symphony.command("status").stdout.splitlines() if "up, set to drain" in line
    ]
    for sock, _ in held:
        sock.close()
    wait_until(lambda: site.backends[1].open == 0, "they are over")
    assert site.set("a.test", 1, "drain").endswith(": 0 connections open\n")
    site.set("a.test", 1, "ready")
    assert site.visits("a.test") == {"b0", "b1", "b2"}


def test_down_is_the_last_resort(site: Site) -> None:
    assert site.set("default", 0, "down").startswith(f"{site.backends[0].label} is set to down in (default)")
    assert site.visits("any.other") == {"b1", "b2"}
    site.set("default", 1, "drain")
    site.set("default", 2, "drain")
    assert site.visits("any.other") == {"b0"}
    site.set("default", 0, "drain")
    assert site.visits("any.other") == {""}  # nothing is left
    for backend in range(3):
        site.set("*", backend, "ready")
    assert site.visits("any.other") == site.visits("a.test") == {"b0", "b1", "b2"}


def test_what_is_not_there_is_refused(site: Site) -> None:
    version = site.symphony.status().config_version
    for arguments, expected in (
        (("no.test", "unix:/none", "drain"), 'there is no route "no.test"'),
        (("a.test", "unix:/none", "drain"), 'route "a.test" has no upstream "unix:/none"; it has unix:'),
    ):
        done = site.symphony.command("upstream", *arguments)
        assert done.returncode == 1 and done.stderr.startswith(expected), done.stderr
    assert site.symphony.command("upstream", "a.test", "unix:/none", "away").returncode == 2
    assert site.symphony.status().config_version == version
