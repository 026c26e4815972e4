"""Every way in which a connection can end: begun well or badly, ended by the client, the service or a time limit."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tools.chaos.traffic import Site
from tools.chaos.wire import Wire

BULK_BYTES = 2 << 20
HELLO_PIECE = 60


@dataclass(frozen=True, slots=True)
class Client:
    """What an ending needs. `rng` belongs to it alone."""

    site: Site
    context: ssl.SSLContext
    rng: random.Random

    async def tls(self, wire: Wire, route: str) -> None:
        """Connect, and make the handshake."""
        await self.bare(wire)
        await wire.shake(self.context, route)

    async def bare(self, wire: Wire) -> None:
        """Connect to the TLS listener."""
        await wire.connect((self.site.host, self.site.tls_port))

    async def http(self, wire: Wire, request: bytes) -> None:
        """Connect to the plain HTTP listener, and send."""
        await wire.connect((self.site.host, self.site.http_port))
        await wire.send_raw(request)


Ending = Callable[[Client, Wire], Awaitable[None]]

PLAIN, UNIX, PASSED, DOWN, MUTUAL = (
    f"{name}.chaos.test" for name in ("plain", "unix", "passed", "down", "mutual")
)
_REDIRECT = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
_CHALLENGE = b"GET /.well-known/acme-challenge/token HTTP/1.1\r\nHost: %s\r\n\r\n"


async def _drain(wire: Wire) -> None:
    while await wire.receive_raw():
        pass


async def _echo(client: Client, wire: Wire, route: str, size: int = 2000) -> None:
    await client.tls(wire, route)
    data = client.rng.randbytes(size)
    await wire.send(b"x" + data)
    if await wire.receive_exactly(len(data) + 1) != b"x" + data:
        raise ValueError("another answer")


def in_order(route: str) -> Ending:
    async def end(client: Client, wire: Wire) -> None:
        await _echo(client, wire, route)
        await wire.end()

    return end


def reset_after_echo(route: str) -> Ending:
    async def end(client: Client, wire: Wire) -> None:
        await _echo(client, wire, route)
        wire.reset()

    return end


def half_close(route: str) -> Ending:
    async def end(client: Client, wire: Wire) -> None:
        await _echo(client, wire, route)
        wire.sock.shutdown(socket.SHUT_WR)
        await _drain(wire)

    return end


def bulk_abandoned(route: str) -> Ending:
    """Ask for much, take a little, and go."""

    async def end(client: Client, wire: Wire) -> None:
        await client.tls(wire, route)
        await wire.send(b"bulk %d" % BULK_BYTES)
        await wire.receive()
        wire.reset() if client.rng.random() < 0.5 else wire.close()

    return end


def upload_abandoned(route: str) -> Ending:
    async def end(client: Client, wire: Wire) -> None:
        await client.tls(wire, route)
        await wire.send(b"x" + bytes(BULK_BYTES // 4))
        wire.reset()

    return end


def ended_by_service(route: str, word: bytes) -> Ending:
    async def end(client: Client, wire: Wire) -> None:
        await client.tls(wire, route)
        await wire.send(word)
        while await wire.receive():
            pass

    return end


def refused(route: str | None) -> Ending:
    """A handshake that leads nowhere."""

    async def end(client: Client, wire: Wire) -> None:
        await client.bare(wire)
        await wire.shake(client.context, route)
        await wire.receive()

    return end


def hello_cut(how: str) -> Ending:
    async def end(client: Client, wire: Wire) -> None:
        await client.bare(wire)
        await wire.send_raw(wire.hello(client.context, PLAIN)[:HELLO_PIECE])
        if how == "reset":
            wire.reset()
        elif how == "end":
            wire.sock.shutdown(socket.SHUT_WR)
            await _drain(wire)
        elif how == "wait":
            await _drain(wire)  # until the time limit of the handshake

    return end


async def reset_in_handshake(client: Client, wire: Wire) -> None:
    await client.bare(wire)
    await wire.send_raw(wire.hello(client.context, PLAIN))
    await wire.receive_raw()
    wire.reset()


async def garbage(client: Client, wire: Wire) -> None:
    await client.bare(wire)
    await wire.send_raw(client.rng.randbytes(client.rng.randrange(1, 3000)))
    await _drain(wire)


async def left_at_once(client: Client, wire: Wire) -> None:
    await client.bare(wire)


async def reset_at_once(client: Client, wire: Wire) -> None:
    await client.bare(wire)
    wire.reset()


def http_answered(request: bytes) -> Ending:
    """Send a request that ends the connection, and read to the end."""

    async def end(client: Client, wire: Wire) -> None:
        await client.http(wire, request)
        await _drain(wire)

    return end


def http_abandoned(request: bytes, *, answered: bool) -> Ending:
    async def end(client: Client, wire: Wire) -> None:
        await client.http(wire, request)
        if answered:
            await wire.receive_raw()
        wire.reset()

    return end


ENDINGS: dict[str, Ending] = {
    "in order": in_order(PLAIN),
    "in order, over a Unix socket": in_order(UNIX),
    "in order, passed through": in_order(PASSED),
    "reset after an answer": reset_after_echo(PLAIN),
    "reset after an answer, passed through": reset_after_echo(PASSED),
    "half-closed by the client": half_close(PLAIN),
    "half-closed by the client, passed through": half_close(PASSED),
    "a download abandoned": bulk_abandoned(PLAIN),
    "a download abandoned, passed through": bulk_abandoned(PASSED),
    "an upload abandoned": upload_abandoned(PLAIN),
    "an upload abandoned, passed through": upload_abandoned(PASSED),
    "closed by the service": ended_by_service(PLAIN, b"close"),
    "closed by the service, passed through": ended_by_service(PASSED, b"close"),
    "reset by the service": ended_by_service(PLAIN, b"reset"),
    "reset by the service, over a Unix socket": ended_by_service(UNIX, b"reset"),
    "reset by the service, passed through": ended_by_service(PASSED, b"reset"),
    "no service there": refused(DOWN),
    "a name without a route": refused("nobody.test"),
    "no name": refused(None),
    "no client certificate": refused(MUTUAL),
    "half a ClientHello, then closed": hello_cut("close"),
    "half a ClientHello, then ended": hello_cut("end"),
    "half a ClientHello, then reset": hello_cut("reset"),
    "half a ClientHello, then silence": hello_cut("wait"),
    "reset in the handshake": reset_in_handshake,
    "garbage": garbage,
    "left at once": left_at_once,
    "reset at once": reset_at_once,
    "redirected": http_answered(_REDIRECT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")),
    "redirected, then reset": http_abandoned(_REDIRECT * 3, answered=True),
    "half a request, then reset": http_abandoned(_REDIRECT[:20], answered=False),
    "no request": http_answered(b"nonsense\r\n\r\n"),
    "a challenge answered": http_answered(_CHALLENGE % PLAIN.encode()),
    "a challenge abandoned": http_abandoned(_CHALLENGE % PLAIN.encode(), answered=False),
    "a challenge without a service": http_answered(_CHALLENGE % DOWN.encode()),
    "a challenge without a route": http_answered(_CHALLENGE % b"nobody.test"),
    "TLS to the plain port": http_answered(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
}
"""Each makes exactly one connection."""

_SELDOM = {"half a ClientHello, then silence": 20}
"""Those that take their time are chosen so many times less often."""


async def end_connections(site: Site, count: int, seed: int, at_once: int, limit_s: float) -> dict[str, int]:
    """Make `count` connections and end them, every way about as often; return how often each was taken.

    Raises TimeoutError when one does not end within `limit_s` seconds, and ValueError on a wrong answer.
    """
    rng = random.Random(seed)  # noqa: S311
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    names = list(ENDINGS)
    chosen = rng.choices(names, [1 / _SELDOM.get(name, 1) for name in names], k=count)
    slots = asyncio.Semaphore(at_once)

    async def one(name: str, own: int) -> None:
        async with slots:
            wire = Wire()
            try:
                async with asyncio.timeout(limit_s):
                    await ENDINGS[name](Client(site, context, random.Random(own)), wire)  # noqa: S311
            except TimeoutError:
                raise TimeoutError(f"{name!r} does not end within {limit_s:g} s") from None
            except OSError:
                pass  # most of them are meant to fail
            finally:
                wire.close()

    await asyncio.gather(*(one(name, rng.randrange(1 << 32)) for name in chosen))
    return {name: chosen.count(name) for name in names}
