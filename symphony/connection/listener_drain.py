"""One listener of an acceptor goes out of service, and comes back, while the others serve on."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from symphony.connection.accepting import AcceptLoop
from symphony.connection.ledger import Ledger
from symphony.connection.state import ListenerSeat
from symphony.observe.reasons import Reason
from symphony.relay.sockets import shut_reading


def leave(
    seat: ListenerSeat, loops: Iterable[AcceptLoop], sockets: Iterable[socket.socket], ledger: Ledger
) -> None:
    """Take what waits in the queues, let nobody in any more, and end the connections that rest.

    `sockets` are those of the listener's that nobody else accepts from. They are taken out of service at once: between
    the last accept and this, nobody may have been made to wait.
    """
    seat.draining = True
    for loop in loops:
        if loop.seat is seat:
            loop.stop(take_waiting=True)
    for sock in sockets:
        shut_reading(sock)
    for connection in tuple(ledger.resting):
        if connection.seat is seat:
            connection.leave()


def cut(seat: ListenerSeat, ledger: Ledger) -> int:
    """End the connections that came by `seat`; return how many there were."""
    found = [connection for connection in ledger.open if connection.seat is seat]
    for connection in found:
        connection.abort(Reason.DRAIN_TIMEOUT)
    return len(found)


def serve(seat: ListenerSeat, loops: Iterable[AcceptLoop]) -> None:
    """Accept again, from sockets that listen again."""
    seat.draining = False
    for loop in loops:
        if loop.seat is seat:
            loop.stop()
            loop.start()
