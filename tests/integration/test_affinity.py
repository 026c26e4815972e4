"""Clients that stay with their upstream, over all acceptors of a real tree, their restarts and reloads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from tests.support.acceptor import wait_until
from tests.support.backends import Backend, Backends, visit
from tests.support.symphony_process import SymphonyProcess, running_symphony

WORKERS = 3
ACCEPTORS = tuple(f"acceptor-{index}" for index in range(WORKERS))
CLIENTS = [f"127.0.7.{number + 1}" for number in range(24)]
HEAD = f'workers = {WORKERS}\n[[listeners]]\nhost = "127.0.0.1"\nport = 0\n'


class Site:
    """A tree with a route whose upstreams change; `serve` reloads."""

    def __init__(self, stack: ExitStack, kind: str) -> None:
        self.backends: Backends = stack.enter_context(Backends(4, kind))
        self.symphony: SymphonyProcess = stack.enter_context(running_symphony(self.config(self.backends[:2])))
        self.port = self.symphony.port()

    def config(self, backends: Sequence[Backend]) -> str:
        rows = ", ".join(
            backend.entry(ip_affinity=True, max_fails=1, fail_timeout_ms=60_000) for backend in backends
        )
        return HEAD + f'[[routes]]\nsni = "sticky.test"\nterminate_tls = false\nupstreams = [{rows}]\n'

    def serve(self, *backends: Backend) -> None:
        self.symphony.config_file.write_text(self.config(backends))
        done = self.symphony.command("reload")
        assert done.returncode == 0, done.stderr
        version = self.symphony.status().config_version
        wait_until(
            lambda: {self.symphony.acceptor(name).version for name in ACCEPTORS} == {version}, "all serve it"
        )

    def owners(self) -> dict[str, str]:
        """The upstream of each client; several connections of one client all go there."""
        found: dict[str, str] = {}
        for _ in range(3):
            for client in CLIENTS:
                backend = visit(self.port, "sticky.test", client)
                assert found.setdefault(client, backend) == backend
        return found


@pytest.fixture(params=["uds", "tcp"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack, request.param)


def test_clients_stay(site: Site) -> None:
    backends, symphony = site.backends, site.symphony
    first = site.owners()
    assert set(first.values()) == {"b0", "b1"}
    assert all(symphony.acceptor(name).accepted for name in ACCEPTORS)
    # Killed acceptors.
    for name in ACCEPTORS[:2]:
        before = symphony.kill_child(name).restarts
        wait_until(lambda: symphony.child(name).restarts > before, "it is started again")  # noqa: B023
        symphony.wait_running(name)
    assert site.owners() == first
    # A longer list, in another order.
    site.serve(*reversed(backends))
    assert site.owners() == first
    strangers = {visit(site.port, "sticky.test", f"127.0.9.{number + 1}") for number in range(60)}
    assert strangers == {"b0", "b1", "b2", "b3"}
    # A shorter one.
    site.serve(backends[3], backends[1])
    second = site.owners()
    assert all(second[client] == owner if owner == "b1" else True for client, owner in first.items())
    assert set(second.values()) <= {"b1", "b3"}
    # An upstream that stops: its clients go to the other one, and stay there when it is back.
    backends.stop(backends[1])
    while "b1" in (owners := site.owners()).values():
        pass
    assert set(owners.values()) == {"b3"}
    backends.start(backends[1])
    assert site.owners() == owners
