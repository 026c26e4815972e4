"""Steady traffic from a thread of its own: short calls without end, connections that talk, and one bulk transfer."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import uvloop

from tools.chaos.backend import PATTERN
from tools.chaos.records import Call, Evidence, Talk
from tools.chaos.wire import Wire

LIMIT_S = 12.0
"""How long a call or an answer may take before it counts as lost."""
CALL_PAUSE_S = 0.03
TALK_PAUSE_S = 0.1
TALK_LIVES_S = (5.0, 20.0)
"""Long enough to be there when harm is done, short enough that all acceptors soon hold some again."""
BULK_BYTES = 64 << 20
BULK_PAUSE_S = 0.008
CLOCK_EVERY_S = 0.02
AGAIN_S = 0.05
TALKS_PER_ROUTE = 4


@dataclass(frozen=True, slots=True)
class Site:
    """Where clients find the tree. All routes are called by TLS on `tls_port`, but for those on `http_port`."""

    host: str
    tls_port: int
    http_port: int
    tls_routes: tuple[str, ...]
    challenge_host: str


class Traffic:
    """Runs from :meth:`start` to :meth:`stop`; writes down everything in `evidence`."""

    def __init__(self, site: Site, evidence: Evidence) -> None:
        self._site = site
        self._evidence = evidence
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._loop = uvloop.new_event_loop()
        self._calling = asyncio.Event()
        self._talking = True
        self._talk_round = 0
        self._rng = random.Random()  # noqa: S311 - when which connection ends decides nothing
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="traffic", daemon=True)
        self.faults: list[str] = []
        """Errors of this program itself."""
        self.late_s = 0.0
        """By how much this thread ran later than it meant to, at most: what the machine did to everybody's times."""

    def start(self) -> None:
        """Begin, with calls and talks on every route."""
        self._thread.start()
        self._loop.call_soon_threadsafe(self._begin)

    def stop(self) -> None:
        """End everything in order."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(3 * LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def hold_calls(self) -> None:
        """Make no new call, and return when the last one is over."""
        self._loop.call_soon_threadsafe(self._calling.clear)
        deadline = time.monotonic() + 2 * LIMIT_S
        while any(not call.is_over for call in tuple(self._evidence.calls)) and time.monotonic() < deadline:
            time.sleep(0.01)

    def resume_calls(self) -> None:
        """Make calls again."""
        self._loop.call_soon_threadsafe(self._calling.set)

    def end_talks(self) -> None:
        """Have every connection that stays open end in order, and another take its place once calls are made."""
        self._talk_round += 1

    def burst(self, count: int) -> list[Call]:
        """Make `count` calls at once, and return them while they are under way."""
        calls = [
            self._new_call(self._site.tls_routes[at % len(self._site.tls_routes)]) for at in range(count)
        ]

        def begin() -> None:
            for call in calls:
                call.began = time.monotonic()
                self._spawn(self._tls_call(call))

        self._loop.call_soon_threadsafe(begin)
        return calls

    def _begin(self) -> None:
        self._calling.set()
        self._spawn(self._watch_the_clock())
        site = self._site
        for route in site.tls_routes:
            self._spawn(self._keep_calling(route, self._tls_call))
            for _ in range(TALKS_PER_ROUTE):
                self._spawn(self._keep_talking("echo", [route], self._echo))
        self._spawn(self._keep_calling("redirect", self._redirect_call))
        self._spawn(self._keep_calling("challenge", self._challenge_call))
        self._spawn(self._keep_talking("bulk", list(site.tls_routes), self._bulk))

    async def _end(self) -> None:
        self._talking = False
        self._calling.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2 * LIMIT_S)
        for task in self._tasks:
            self.faults.append(f"{task.get_name()} does not end")
            task.cancel()

    def _spawn(self, work: Awaitable[None]) -> None:
        task = self._loop.create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - told in the report; the other traffic goes on
            self.faults.append(repr(error))

    async def _watch_the_clock(self) -> None:
        while self._talking:
            due = time.monotonic() + CLOCK_EVERY_S
            await asyncio.sleep(CLOCK_EVERY_S)
            self.late_s = max(self.late_s, time.monotonic() - due)

    async def _may_begin(self) -> bool:
        """Wait until new connections may be made; False when none is wanted any more."""
        await self._calling.wait()
        return self._talking

    # Calls

    def _new_call(self, route: str) -> Call:
        call = Call(route, time.monotonic())
        self._evidence.calls.append(call)
        return call

    async def _keep_calling(self, route: str, make: Callable[[Call], Awaitable[None]]) -> None:
        while await self._may_begin():
            call = self._new_call(route)
            await make(call)
            await asyncio.sleep(AGAIN_S if call.error else CALL_PAUSE_S)

    async def _tls_call(self, call: Call) -> None:
        async def work(wire: Wire) -> None:
            await wire.connect((self._site.host, self._site.tls_port))
            call.address = wire.address
            await wire.shake(self._context, call.route)
            call.secured_at = time.monotonic()
            question = os.urandom(24).hex().encode()
            await wire.send(question)
            if await wire.receive_exactly(len(question)) != question:
                raise ValueError("another answer")

        await self._make(call, work)

    async def _redirect_call(self, call: Call) -> None:
        path = b"/" + os.urandom(8).hex().encode()
        expected = b"Location: https://redirect.chaos.test" + path + b"\r\n"
        await self._http_call(
            call, b"GET " + path + b" HTTP/1.1\r\nHost: redirect.chaos.test\r\n\r\n", expected
        )

    async def _challenge_call(self, call: Call) -> None:
        token = os.urandom(16).hex().encode()
        head = b"GET /.well-known/acme-challenge/" + token + b" HTTP/1.1\r\nHost: "
        await self._http_call(
            call, head + self._site.challenge_host.encode() + b"\r\n\r\n", b"\r\n\r\n" + token
        )

    async def _http_call(self, call: Call, request: bytes, expected: bytes) -> None:
        async def work(wire: Wire) -> None:
            await wire.connect((self._site.host, self._site.http_port))
            call.address = wire.address
            await wire.send(request)
            answer = b""
            while expected not in answer:
                part = await wire.receive()
                call.secured_at = call.secured_at or time.monotonic()
                if not part:
                    raise ConnectionResetError(f"closed after {answer[:40]!r}")
                answer += part

        await self._make(call, work)

    async def _make(self, call: Call, work: Callable[[Wire], Awaitable[None]]) -> None:
        wire = Wire()
        try:
            async with asyncio.timeout(LIMIT_S):
                await work(wire)
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            call.error = explain(error)
        call.ended = time.monotonic()
        if call.error:
            wire.close()
        else:
            await wire.end()

    # Connections that stay

    async def _keep_talking(
        self, kind: str, routes: list[str], work: Callable[[Wire, Talk], Awaitable[None]]
    ) -> None:
        while await self._may_begin():
            routes.append(route := routes.pop(0))
            talk = Talk(kind, route, time.monotonic())
            self._evidence.talks.append(talk)
            wire = Wire()
            try:
                async with asyncio.timeout(LIMIT_S):
                    await wire.connect((self._site.host, self._site.tls_port))
                    talk.address = wire.address
                    await wire.shake(self._context, route)
                await work(wire, talk)
                await wire.end()
            except (OSError, ValueError) as error:
                talk.error = explain(error)
                wire.close()
            talk.ended = time.monotonic()
            if talk.error:
                await asyncio.sleep(AGAIN_S)

    async def _echo(self, wire: Wire, talk: Talk) -> None:
        began_in = self._talk_round
        until = talk.began + self._rng.uniform(*TALK_LIVES_S)
        while self._talking and self._talk_round == began_in and time.monotonic() < until:
            question = b"%d %s" % (talk.answers, os.urandom(20).hex().encode())
            async with asyncio.timeout(LIMIT_S):
                await wire.send(question)
                answer = await wire.receive_exactly(len(question))
            if answer != question:
                raise ValueError("another answer")
            talk.answers += 1
            talk.answered_at = time.monotonic()
            await asyncio.sleep(TALK_PAUSE_S)

    async def _bulk(self, wire: Wire, talk: Talk) -> None:
        await wire.send(b"bulk %d" % BULK_BYTES)
        began_in = self._talk_round
        while talk.moved < BULK_BYTES and self._talking and self._talk_round == began_in:
            async with asyncio.timeout(LIMIT_S):
                part = await wire.receive()
            if not part:
                raise ConnectionResetError(f"closed after {talk.moved} bytes")
            at = talk.moved % len(PATTERN)
            if part != PATTERN[at : at + len(part)]:
                # Around the pattern's end a part is compared in two pieces.
                rest = len(PATTERN) - at
                if part[:rest] != PATTERN[at:] or part[rest:] != PATTERN[: len(part) - rest]:
                    raise ValueError("other bytes")
            talk.moved += len(part)
            await asyncio.sleep(BULK_PAUSE_S)


def explain(error: BaseException) -> str:
    """One word for what went wrong, and the error's own."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ValueError):
        return f"wrong: {error}"
    return f"lost: {error!r}"
