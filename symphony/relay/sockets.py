"""The few socket options and endings that every relay needs."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios

# A peer that is gone without a word is noticed after 60 + 4 * 15 = 120 seconds (tcp(7)).
KEEPALIVE_IDLE_S = 60
KEEPALIVE_INTERVAL_S = 15
KEEPALIVE_PROBES = 4

_TCP = int(socket.IPPROTO_TCP)
_UNIX = int(socket.AF_UNIX)
_UNACKED_AT, _TOLD_UNACKED = 24, 28
_LINGER_NONE = struct.pack("ii", 1, 0)
_STILL_OPEN = frozenset({1, 4, 5})  # ESTABLISHED and our own FIN_WAIT states: the peer may still send
_CLOSED = 7
_READS_BEFORE_CLOSE = 8  # a client that sends without end must not be read without end


def tune_tcp(sock: socket.SocketType) -> None:
    """Send small messages at once, and find a peer that is gone. Accepted sockets inherit it from the listening one."""
    sock.setsockopt(_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def reset_on_close(sock: socket.SocketType) -> None:
    """Make ``close`` send a reset on TCP; a Unix socket has no such thing and is left as it is."""
    if sock.family != _UNIX:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        except OSError:
            pass  # closed or reset by the peer already: there is nobody left to tell


def shut_writing(sock: socket.SocketType) -> None:
    """Pass on the end of a direction; a peer that has gone already needs no telling."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def shut_reading(sock: socket.SocketType) -> None:
    """Take a listening socket out of service: its port is free, and what waits in its queue is reset.

    Nothing is done to one that does not listen (any more, since a sibling was first): Linux would remember that its
    reading side is shut, and should it ever listen again, everything that it accepts would be born so.
    """
    try:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.shutdown(socket.SHUT_RD)
    except OSError:
        pass  # closed meanwhile


def undelivered(sock: socket.SocketType) -> int:
    """How many bytes a TCP peer has not acknowledged yet (tcp(7), SIOCOUTQ); 0 when there is no telling."""
    try:
        return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def waiting_to_be_accepted(listening: socket.SocketType) -> int:
    """How many connections wait in a listening socket's queue; 0 where there is none.

    The kernel gives it as tcpi_unacked (tcp(7), TCP_INFO), which has another meaning on a connection.
    """
    try:
        if not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return 0
        told = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TOLD_UNACKED)
        return int.from_bytes(told[_UNACKED_AT:], sys.byteorder)
    except OSError:
        return 0


def has_closed(sock: socket.SocketType) -> bool:
    """Whether a TCP peer has ended its direction, told by the kernel (tcp(7), TCP_INFO), with bytes unread or not."""
    return _state(sock) not in _STILL_OPEN


def was_reset(sock: socket.SocketType) -> bool:
    """Whether a TCP peer to which we have not ended our own direction has reset the connection.

    The kernel reports a reset once; when that was to a call that ignored it, reads see an orderly end from then on.
    """
    return _state(sock) == _CLOSED


def _state(sock: socket.SocketType) -> int:
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]  # its first byte is tcpi_state
    except OSError:
        return _CLOSED


def close_after_alert(sock: socket.SocketType, alert: bytes = b"") -> None:
    """Close so that an alert, given or already sent, reaches the peer.

    Closing a socket that has unread bytes sends a reset, and a reset makes the peer's kernel throw away what it has
    not read yet, the alert included. So what has arrived is read first.
    """
    try:
        for _ in range(_READS_BEFORE_CLOSE):
            if len(sock.recv(65536)) < 65536:
                break
        if alert:
            sock.send(alert)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # reset by the peer meanwhile: there is nobody left to tell
    sock.close()
