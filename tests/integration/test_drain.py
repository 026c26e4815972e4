"""What clients and another instance see of one that stops while connections are open."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from tests.support.acceptor import wait_until
from tests.support.calls import ask, connect, request, shake
from tests.support.showcase import Showcase, running_showcase


def is_refused(show: Showcase) -> bool:
    try:
        socket.create_connection(("127.0.0.1", show.symphony.port()), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("route", ["exact", "passed"])
def test_open_connections_go_on_and_new_ones_are_refused(route: str) -> None:
    with running_showcase() as show:
        symphony, expected = show.symphony, show.expected[route]
        with connect(expected.target) as held:
            assert ask(held) == route
            os.kill(symphony.pid, signal.SIGTERM)
            wait_until(lambda: is_refused(show), "new connections are refused", limit_s=4)
            assert ask(held) == route
            # Nobody listens on the port any more, so it is another's to take.
            with (
                running_showcase(port=symphony.port()) as successor,
                connect(successor.expected[route].target) as new,
            ):
                assert ask(new) == route
                assert ask(held) == route
            assert request(held, expected.target.name) == route
        assert symphony.wait() == 0
        assert "Traceback" not in symphony.log
        assert symphony.logged("accept_paused") == []


def test_who_waits_in_a_queue_when_the_stop_comes_is_served() -> None:
    with running_showcase() as show:
        expected = show.expected["exact"]
        children = [show.symphony.wait_running(name).pid for name in ("acceptor-0", "acceptor-1")]
        for pid in children:
            os.kill(pid, signal.SIGSTOP)
        waiting = [
            socket.create_connection(("127.0.0.1", show.symphony.port()), timeout=10) for _ in range(8)
        ]
        os.kill(show.symphony.pid, signal.SIGTERM)
        for pid in children:
            os.kill(pid, signal.SIGCONT)
        for sock in waiting:
            with shake(sock, expected.target) as connection:
                assert request(connection, expected.target.name) == "exact"
        assert show.symphony.wait() == 0
