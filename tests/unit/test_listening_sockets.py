"""What the kernel tells of a socket that listens, and what becomes of it."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from symphony.relay.sockets import shut_reading, waiting_to_be_accepted
from tests.support.acceptor import wait_until


def test_connections_that_wait_are_counted() -> None:
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        assert waiting_to_be_accepted(listening) == 0
        for count in range(1, 4):
            stack.enter_context(socket.create_connection(listening.getsockname(), timeout=5))
            wait_until(lambda count=count: waiting_to_be_accepted(listening) == count, "it waits")  # type: ignore[misc]
        for left in (2, 1, 0):
            accepted, _ = listening.accept()
            stack.enter_context(accepted)
            assert waiting_to_be_accepted(listening) == left
            assert waiting_to_be_accepted(accepted) == 0


def test_nobody_waits_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        shut_reading(listening)
        assert waiting_to_be_accepted(listening) == 0
    assert waiting_to_be_accepted(listening) == 0
    with socket.socket(socket.AF_UNIX) as unix:
        assert waiting_to_be_accepted(unix) == 0
