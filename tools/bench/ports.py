"""Free ports, and who owns one: nothing is measured before it is known whose socket it is."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterable

_LISTEN = "0A"


class PortTaken(Exception):
    """Something that this program did not start listens on the port."""


def free_port() -> int:
    """Return a TCP port that is free on all addresses, and that the kernel gives to no client in the meantime.

    One of those that the kernel hands out for port 0 may be the own port of a connection a moment later.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        least = int(file.read().split()[0])
    lowest = max(1024, least - 12000)
    while True:
        # Not by the state that a test may have set to repeat something else.
        wanted = random.SystemRandom().randrange(lowest, least) if lowest < least else 0
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", wanted))
                probe.listen()
            except OSError:
                continue
            return int(probe.getsockname()[1])


def parse_listeners(lines: Iterable[str], port: int) -> set[int]:
    """Return the inodes of the sockets that listen on a port, from the lines of /proc/net/tcp or tcp6.

    Those files name the listening sockets first (Documentation/networking/proc_net_tcp.rst in Linux), so reading
    ends there: what follows may be hundreds of thousands of connections.
    """
    inodes = set()
    for line in lines:
        fields = line.split()
        if fields[0] == "sl":
            continue
        if fields[3] != _LISTEN:
            break
        if int(fields[1].rpartition(":")[2], 16) == port:
            inodes.add(int(fields[9]))
    return inodes


def listening_inodes(port: int) -> set[int]:
    """Return the inodes of all sockets that listen on a port, IPv4 and IPv6."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError), open(table) as lines:
            inodes |= parse_listeners(lines, port)
    return inodes


def sockets_of(pid: int) -> set[int]:
    """Return the inodes of the sockets that a process holds open."""
    inodes: set[int] = set()
    try:
        entries = os.listdir(f"/proc/{pid}/fd")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return inodes
    for entry in entries:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{entry}")
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(int(target[8:-1]))
    return inodes


def owned_by(port: int, pids: Iterable[int]) -> bool:
    """Say whether something listens on the port, and every such socket is held by one of these processes.

    Raises PortTaken when a socket listens there that none of them holds.
    """
    inodes = listening_inodes(port)
    if not inodes:
        return False
    ours: set[int] = set()
    for pid in pids:
        ours |= sockets_of(pid)
    if inodes - ours:
        raise PortTaken(f"port {port} belongs to a process that this benchmark did not start")
    return True
