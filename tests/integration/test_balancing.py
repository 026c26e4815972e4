"""How connections spread over upstreams, seen over all acceptors of a real tree."""

from __future__ import annotations

import random
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.acceptor import wait_until
from tests.support.backends import Backends, hold, visit
from tests.support.symphony_process import SymphonyProcess, running_symphony

WORKERS = 4
STRATEGIES = ("least_connections", "round_robin", "random", "ip_hash")
HEAD = f'workers = {WORKERS}\n[[listeners]]\nhost = "127.0.0.1"\nport = 0\n'


def route(sni: str, upstreams: str, *keys: str) -> str:
    lines = ["[[routes]]", f'sni = "{sni}"', "terminate_tls = false", f"upstreams = {upstreams}", *keys]
    return "\n".join(lines) + "\n"


def by_weight(backends: Backends) -> str:
    return "[" + ", ".join(backend.entry(weight=3 - at) for at, backend in enumerate(backends)) + "]"


class Pools:
    """A tree with a route for each kind of upstream and each strategy, all with backends of their own."""

    def __init__(self, stack: ExitStack) -> None:
        enter = stack.enter_context
        self.backends = {kind: enter(Backends(8, kind)) for kind in ("uds", "tcp")}
        self.backends["killed"] = enter(Backends(4))
        self.backends |= {strategy: enter(Backends(3)) for strategy in STRATEGIES}
        routes = [route(name, self.backends[name].entries()) for name in ("uds", "tcp", "killed")]
        routes += [
            route(name.replace("_", "-"), by_weight(self.backends[name]), f'balance = "{name}"')
            for name in STRATEGIES
        ]
        self.symphony: SymphonyProcess = enter(running_symphony(HEAD + "".join(routes)))
        self.port = self.symphony.port()

    def accepted(self) -> list[int]:
        return [self.symphony.acceptor(f"acceptor-{index}").accepted for index in range(WORKERS)]

    def wait_counted(self, expected: int) -> None:
        wait_until(lambda: self.symphony.status().connections.active == expected, f"{expected} are open")


@pytest.fixture(scope="module")
def all_pools() -> Iterator[Pools]:
    with ExitStack() as stack:
        yield Pools(stack)


@pytest.fixture
def pools(all_pools: Pools) -> Iterator[Pools]:
    yield all_pools
    all_pools.wait_counted(0)


@pytest.mark.parametrize("kind", ["uds", "tcp"])
def test_steady_connections_are_spread_over_all_acceptors_together(pools: Pools, kind: str) -> None:
    backends = pools.backends[kind]
    before = pools.accepted()
    held = [hold(pools.port, kind)[0] for _ in range(160)]
    assert all(now - then > 10 for now, then in zip(pools.accepted(), before, strict=True))
    assert max(backends.open) - min(backends.open) <= 1, backends.open
    # Some end and others come, again and again: the acceptors' own shares differ by now.
    choice = random.Random(7)
    for _ in range(6):
        for _ in range(40):
            held.pop(choice.randrange(len(held))).close()
        pools.wait_counted(120)
        held += [hold(pools.port, kind)[0] for _ in range(40)]
    mean = sum(backends.open) / len(backends)
    assert mean == 20 and max(backends.open) / mean <= 1.1, backends.open
    for sock in held:
        sock.close()


def test_killed_acceptor_takes_its_count_along(pools: Pools) -> None:
    backends, symphony = pools.backends["killed"], pools.symphony
    held = [hold(pools.port, "killed")[0] for _ in range(80)]
    killed = symphony.kill_child("acceptor-1")
    symphony.wait_for(lambda _: symphony.child("acceptor-1").restarts > killed.restarts)
    symphony.wait_running("acceptor-1")
    wait_until(lambda: sum(backends.open) < 80, "its connections are over")
    pools.wait_counted(sum(backends.open))
    held += [hold(pools.port, "killed")[0] for _ in range(80)]
    assert max(backends.open) - min(backends.open) <= 1, backends.open
    for sock in held:
        sock.close()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies(pools: Pools, strategy: str) -> None:
    backends, name = pools.backends[strategy], strategy.replace("_", "-")
    held: list[socket.socket] = []
    seen: Counter[str] = Counter()
    for turn in range(60):
        sock, backend = hold(pools.port, name, f"127.0.1.{turn % 20}")
        held.append(sock)
        seen[backend] += 1
    counts = [seen[backend.name] for backend in backends]
    assert sum(counts) == 60
    if strategy == "random":
        assert all(counts), counts
    elif strategy == "ip_hash":
        owners = {turn: visit(pools.port, name, f"127.0.1.{turn}") for turn in range(20)}
        assert Counter(owners[turn % 20] for turn in range(60)) == seen
    else:
        # Each acceptor goes round on its own: the last round of each may be incomplete.
        assert all(
            abs(count - share) <= WORKERS for count, share in zip(counts, [30, 20, 10], strict=True)
        ), counts
    for sock in held:
        sock.close()
