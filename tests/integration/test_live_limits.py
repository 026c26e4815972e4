"""Limits and listener settings in a running instance: exact over two acceptors, and changed by a reload."""

from __future__ import annotations

import os
import signal
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.acceptor import wait_until
from tests.support.calls import Target, ask, call, connect
from tests.support.peers import Background
from tests.support.showcase import Showcase, running_showcase

ACCEPTORS = ("acceptor-0", "acceptor-1")
SLOW = 0.001  # connections a second: nothing is refilled while a test runs
EXACT = 'sni = "exact.example.test"\n'
LISTENER = "[[listeners]]\n"


@pytest.fixture
def show() -> Iterator[Showcase]:
    with running_showcase() as running:
        yield running


def reconfigure(show: Showcase, after: str, keys: str) -> None:
    """Put `keys` after a line of the configuration, reload, and wait until both acceptors serve that."""
    assert show.config.count(after) == 1
    show.symphony.config_file.write_text(show.config.replace(after, after + keys))
    done = show.symphony.command("reload")
    assert done.returncode == 0, done.stderr
    version = show.symphony.status().config_version
    wait_until(lambda: all(show.symphony.acceptor(name).version == version for name in ACCEPTORS), "served")


def limit(show: Showcase, rate: float, burst: int) -> None:
    reconfigure(show, EXACT, f"max_connections_per_second = {rate}\nburst = {burst}\n")


def is_let_in(target: Target) -> bool:
    """Whether one connection is served; False when it is reset. Anything else is an error."""
    try:
        with connect(target) as connection:
            return ask(connection) == "exact"
    except ConnectionResetError:
        return False


def try_many(target: Target, times: int, threads: int = 4) -> Counter[bool]:
    """How many of `times` connections are let in and how many are not."""

    def some() -> list[bool]:
        return [is_let_in(target) for _ in range(times // threads)]

    return Counter(
        outcome for each in [Background(some) for _ in range(threads)] for outcome in each.result()
    )


def test_a_burst_is_exact_over_both_acceptors(show: Showcase) -> None:
    target = show.expected["exact"].target
    limit(show, SLOW, 25)
    assert try_many(target, 80) == {True: 25, False: 55}
    both = [show.symphony.acceptor(name) for name in ACCEPTORS]
    assert all(each.errors["rate_limited"] > 0 for each in both), "both have turned clients away"
    assert sum(each.errors["rate_limited"] for each in both) == 55
    # Other routes have no part in it, and a killed acceptor brings nothing back.
    assert show.expected["pool"].holds(call("python", show.expected["pool"].target))
    show.symphony.kill_child("acceptor-0")
    assert try_many(target, 20) == {False: 20}


def test_what_is_let_in_over_time_is_the_rate(show: Showcase) -> None:
    target = show.expected["exact"].target
    rate, burst = 20.0, 5
    limit(show, rate, burst)
    let_in = 0
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < 2.0:
        let_in += is_let_in(target)
    assert let_in <= burst + rate * (time.monotonic() - began)
    assert let_in >= burst + rate * elapsed * 0.7


def test_without_the_limiter_each_acceptor_keeps_to_its_share(show: Showcase) -> None:
    target = show.expected["exact"].target
    limit(show, SLOW, 20)
    limiter = show.symphony.wait_running("rate-limiter").pid
    os.kill(limiter, signal.SIGSTOP)
    outcomes = try_many(target, 48, threads=12)
    assert show.symphony.child("rate-limiter").pid == limiter, "asked while it was stopped"
    # The kernel deals unevenly; an acceptor that gets fewer than its ten gives none of them to the other.
    assert 10 <= outcomes[True] <= 20, outcomes


def test_a_limit_is_changed_and_lifted_by_a_reload(show: Showcase) -> None:
    target = show.expected["exact"].target
    limit(show, SLOW, 3)
    assert try_many(target, 12) == {True: 3, False: 9}
    limit(show, SLOW, 7)
    assert try_many(target, 12) == {False: 12}, "a higher burst is filled by the rate, not by the reload"
    reconfigure(show, EXACT, "")
    assert try_many(target, 12) == {True: 12}


def test_another_idle_timeout_holds_for_new_connections(show: Showcase) -> None:
    for route in ("exact", "passed"):
        target = show.expected[route].target
        with connect(target) as before:
            assert ask(before) == route
            reconfigure(show, LISTENER, "idle_timeout_ms = 1500\n")
            with connect(target) as idle, connect(target) as busy:
                assert (ask(idle), ask(busy)) == (route, route)
                began = time.monotonic()
                ended = Background(lambda idle=idle: _end_of(idle))
                while not ended.done:
                    assert ask(busy) == route
                    time.sleep(0.02)
                assert 1.0 < time.monotonic() - began < 10.0
                assert ask(busy) == route
            assert ask(before) == route
        reconfigure(show, LISTENER, "")
    assert show.symphony.status().connections.errors == {"idle_timeout": 2}


def _end_of(connection: ssl.SSLSocket) -> None:
    try:
        assert connection.recv(1) == b""
    except ssl.SSLEOFError:
        return  # passed through: the proxy has no close_notify to send


def test_another_most_of_connections_holds_over_both_acceptors(show: Showcase) -> None:
    target = show.expected["exact"].target
    with ExitStack() as stack:
        for _ in range(6):
            assert ask(stack.enter_context(connect(target))) == "exact"
        reconfigure(show, LISTENER, "max_connections = 8\n")
        # Those that are open stay and count.
        for _ in range(2):
            assert ask(stack.enter_context(connect(target))) == "exact"
        for _ in range(12):
            assert not is_let_in(target)
    wait_until(lambda: show.symphony.status().connections.active == 0, "all are over")
    assert is_let_in(target)
    assert show.symphony.status().connections.errors["max_connections"] == 12
