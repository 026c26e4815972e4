"""Ports that stay free until they are wanted."""

from __future__ import annotations

import random
import socket


def lasting_port() -> int:
    """A port that is free on all addresses, and that the kernel gives to no client in the meantime.

    One of those that the kernel hands out for port 0 may be the own port of a connection a moment later.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        least = int(file.read().split()[0])
    while True:
        port = random.randrange(max(1024, least - 12000), least)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
                probe.listen()
            except OSError:
                continue
        return port
