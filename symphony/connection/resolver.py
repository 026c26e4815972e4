"""Names of TCP upstreams to addresses, looked up in the background.

An address is used as it is. A name is looked up when the first connection wants it and again when the answer is
older than :data:`FRESH_S`; meanwhile, and for as long as look-ups fail, the last good answer serves. So only the first
connection to a name ever waits, and a name server that is down takes nothing down with it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

from structlog import get_logger

FRESH_S = 10.0
RETRY_S = 1.0
"""How long a failed look-up is taken as the answer when there is no earlier one."""

log = get_logger("resolver")

Address = tuple[int, Any]
"""An address family and what ``connect`` takes."""

Callback = Callable[[Sequence[Address]], None]


def literal(host: str, port: int) -> Address | None:
    """The address that `host` spells, or None when it is a name."""
    try:
        socket.inet_pton(socket.AF_INET, host)
    except OSError:
        pass
    else:
        return socket.AF_INET, (host, port)
    address, _, zone = host.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6, address)
        scope = socket.if_nametoindex(zone) if zone else 0
    except OSError:
        return None
    return socket.AF_INET6, (address, port, 0, scope)


class _Name:
    """What is known of one host and port."""

    __slots__ = ("addresses", "looking", "stale_at", "waiting")

    def __init__(self) -> None:
        self.addresses: Sequence[Address] = ()
        self.stale_at = 0.0
        self.looking: asyncio.Task[None] | None = None
        self.waiting: list[Callback] = []


class Resolver:
    """One per process."""

    __slots__ = ("_loop", "_names")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._names: dict[tuple[str, int], _Name] = {}

    def addresses(self, host: str, port: int, callback: Callback) -> bool:
        """Call `callback` with the addresses of `host`, best first; with none when the name has none.

        Called before this returns wherever the answer is known; returns whether it was.
        """
        known = self._names.get((host, port))
        if known is None:
            known = self._names[host, port] = _Name()
            address = literal(host, port)
            if address is not None:
                known.addresses = (address,)
                known.stale_at = float("inf")
        if known.stale_at <= self._loop.time() and known.looking is None:
            known.looking = self._loop.create_task(self._look_up(host, port, known), name=f"look up {host}")
        if known.addresses or known.looking is None:
            callback(known.addresses)
            return True
        known.waiting.append(callback)
        return False

    async def _look_up(self, host: str, port: int, known: _Name) -> None:
        fresh_for = RETRY_S
        try:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            log.warning(
                "lookup_failed", host=host, error=str(error), served_from_memory=bool(known.addresses)
            )
        else:
            known.addresses = tuple(dict.fromkeys((family, address) for family, _, _, _, address in found))
            fresh_for = FRESH_S
        known.stale_at = self._loop.time() + fresh_for
        known.looking = None
        waiting, known.waiting = known.waiting, []
        for callback in waiting:
            callback(known.addresses)

    def close(self) -> None:
        """Stop looking up."""
        for known in self._names.values():
            if known.looking is not None:
                known.looking.cancel()
