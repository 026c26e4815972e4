"""Health checks of upstreams, in the acceptors themselves.

An acceptor sees the upstreams as its connections do: with the same addresses, permissions and network. An actor of its
own would be one more process that can be gone, and its word one more message to wait for.

While it runs, the prober also takes what other acceptors have found out.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from functools import partial
from heapq import heappop, heappush

from structlog import get_logger

from symphony.config.model import UdsUpstream
from symphony.connection.resolver import Address, Resolver
from symphony.routing.checks import CheckTarget, Shifts
from symphony.routing.pool import UpstreamPool
from symphony.routing.upstream import now_ms

TICK_S = 0.1
AT_ONCE = 64
_OUR_FAULT = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})

log = get_logger("prober")


class Prober:
    """One per acceptor, which is number `index` of `acceptors`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: UpstreamPool,
        resolver: Resolver,
        index: int,
        acceptors: int,
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._resolver = resolver
        self._shifts = Shifts(index, acceptors)
        self._targets: Mapping[str, CheckTarget] = {}
        self._due: list[tuple[int, str]] = []
        self._next: dict[str, int] = {}
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._timer: asyncio.Handle | None = None
        self._context: ssl.SSLContext | None = None

    def start(self) -> None:
        """Begin to check what is due."""
        self._tick()

    def follow(self, targets: Mapping[str, CheckTarget]) -> None:
        """Check `targets`, by their upstreams' labels, instead of those before."""
        before, self._targets = self._targets, targets
        for label, target in before.items():
            if label not in targets:
                target.record.heed_checks(None)
        now = now_ms()
        for label, target in targets.items():
            target.record.heed_checks(target.settings)
            known = before.get(label)
            if known is None or known.settings != target.settings:
                self._schedule(label, self._shifts.first(target, now))

    def stop(self) -> None:
        """Check nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._checks.values():
            task.cancel()

    def _tick(self) -> None:
        more = self._pool.listen()
        now = now_ms()
        due = self._due
        while due and due[0][0] <= now and len(self._checks) < AT_ONCE:
            at, label = heappop(due)
            if self._next.get(label) != at:
                continue  # it was given another time
            del self._next[label]
            target = self._targets.get(label)
            if target is not None and label not in self._checks:
                self._look_at(label, target, now)
        self._timer = self._loop.call_soon(self._tick) if more else self._loop.call_later(TICK_S, self._tick)

    def _schedule(self, label: str, at: int) -> None:
        self._next[label] = at
        heappush(self._due, (at, label))

    def _look_at(self, label: str, target: CheckTarget, now: int) -> None:
        turn = self._shifts.turn(target, now)
        if turn.now:
            target.record.check_begins()
            task = self._loop.create_task(self._check(label, target), name=f"check {label}")
            task.add_done_callback(partial(self._ended, label))
            self._checks[label] = task
        else:
            target.record.listen()
            self._schedule(label, turn.again_at)

    async def _check(self, label: str, target: CheckTarget) -> None:
        failure = await self._failure(target)
        if failure is not None and self._targets.get(label) == target:
            target.record.check_ended(target.settings, failure)

    def _ended(self, label: str, task: asyncio.Task[None]) -> None:
        del self._checks[label]
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:  # a fault of ours, which says nothing about the upstream
            log.error("check_failed", upstream=label, exc_info=error)
        if label in self._targets:
            self._schedule(label, self._shifts.next(self._targets[label], now_ms()))

    async def _failure(self, target: CheckTarget) -> str | None:
        """What is wrong with the upstream: "" for nothing, None when this machine is at fault."""
        timeout_ms = target.settings.timeout_ms
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                with await self._connect(target) as sock:
                    if target.header:
                        await self._loop.sock_sendall(sock, target.header)
                    if target.settings.tls:
                        await self._shake_hands(sock, target.server_name)
        except TimeoutError:
            return f"no answer within {timeout_ms} ms"
        except ssl.SSLError as error:
            return f"TLS handshake: {error.reason or error}"
        except ValueError as error:
            return f"TLS handshake: {error}"  # a server name that cannot be sent
        except OSError as error:
            if error.errno in _OUR_FAULT:
                log.warning("check_impossible", upstream=target.upstream.label, error=str(error))
                return None
            return os.strerror(error.errno) if error.errno else str(error)
        return ""

    async def _connect(self, target: CheckTarget) -> socket.socket:
        upstream = target.upstream
        if isinstance(upstream, UdsUpstream):
            return _connect_unix(upstream.path)
        addresses = await self._addresses(upstream.host, upstream.port)
        failed: OSError | None = None
        for family, address in addresses:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                await self._loop.sock_connect(sock, address)
            except OSError as error:
                sock.close()
                failed = error
                continue
            except BaseException:
                sock.close()
                raise
            if sock.getsockname() != sock.getpeername():
                return sock
            # Nobody listens on the port, and the kernel gave us that very port to connect from.
            sock.close()
            failed = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        raise failed or OSError(f"{upstream.host} has no address")

    async def _addresses(self, host: str, port: int) -> Sequence[Address]:
        answer: asyncio.Future[Sequence[Address]] = self._loop.create_future()

        def take(addresses: Sequence[Address]) -> None:
            if not answer.done():
                answer.set_result(addresses)

        self._resolver.addresses(host, port, take)
        return await answer

    async def _shake_hands(self, sock: socket.socket, server_name: str) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = self._tls().wrap_bio(incoming, outgoing, server_hostname=server_name or None)
        while True:
            try:
                session.do_handshake()
            except ssl.SSLWantReadError:
                finished = False
            else:
                finished = True
            data = outgoing.read()
            if data:
                await self._loop.sock_sendall(sock, data)
            if finished:
                return
            data = await self._loop.sock_recv(sock, 65536)
            if not data:
                raise OSError("closed in the middle of the TLS handshake")
            incoming.write(data)

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            context = self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return self._context


def _connect_unix(path: str) -> socket.socket:
    """Connect, at once or not at all: a Unix socket has nothing to wait for but room in the backlog."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(path)
    except BlockingIOError:
        sock.close()
        raise OSError("the backlog is full") from None
    except BaseException:
        sock.close()
        raise
    return sock
