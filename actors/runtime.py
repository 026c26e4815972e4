"""What every actor's process runs inside: event loop, lifeline, mailbox, signals, and an orderly end.

An actor's life: make it, `start` it, serve its mailbox, say that it is ready; then, when told to stop, `stop` it
within the grace it is given and exit with 0. It is told by the supervisor over the lifeline, or by the end of the
lifeline (the supervisor is gone; the grace is then the actor's own). A second stop can only shorten the grace of the
first. The signals that mean something to the supervisor are ignored: a terminal or a service manager sends them to all
processes at once, and the supervisor is the one to decide what then happens, in which order and how fast.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import structlog
import uvloop

from symphony.mailbox.lifeline import Lifeline
from symphony.mailbox.server import MailboxServer
from symphony.observe.logs import name_process

OWN_GRACE_S = 5.0

log = structlog.get_logger()


class Birth(Protocol):
    """What a supervisor gives to a child: its name, which life this is (from 1), its end of the lifeline."""

    @property
    def name(self) -> str: ...
    @property
    def incarnation(self) -> int: ...
    @property
    def lifeline(self) -> socket.socket: ...
    def confine(self) -> None: ...


class CannotRun(Exception):
    """An actor cannot do its work at all; the text is one line that says why. It becomes the child's last word."""


class Actor:
    """Base of all actors. A subclass makes its mailbox when it is made; it is opened and closed here."""

    mailbox: MailboxServer
    own_grace_s = OWN_GRACE_S
    """Within how many seconds :meth:`stop` is to be done when the supervisor is gone."""

    def prepare(self) -> None:
        """Get what takes rights that the process gives up next. May raise :class:`CannotRun`."""

    async def start(self) -> None:
        """Get everything ready that requests need; the mailbox opens after it. May raise :class:`CannotRun`."""

    async def stop(self, grace: float) -> None:
        """Finish within `grace` seconds; cancelled when they are over. The mailbox closes after it."""

    def sibling(self, name: str, up: bool) -> None:
        """Learn that a child of the same group is gone, or ready (again)."""

    def orphaned(self) -> None:
        """Learn that the supervisor is gone; :meth:`stop` follows."""

    def depth(self) -> int:
        """How much work waits; the supervisor shows it."""
        return self.mailbox.depth


def run_actor(birth: Birth, make_actor: Callable[[], Actor]) -> None:
    """Run the actor that `make_actor()` returns (called inside the event loop) until it has ended.

    Raises SystemExit(1) when it could not run; what went wrong is then logged and told to the supervisor.
    """
    name_process(birth.name)
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(ignored, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ended_well = runner.run(_Life(birth).live(make_actor))
    if not ended_well:
        raise SystemExit(1)


class _Life:
    """One actor's life from start to end."""

    def __init__(self, birth: Birth) -> None:
        self._confine = birth.confine
        self._lifeline = Lifeline(birth.lifeline)
        self._loop: asyncio.AbstractEventLoop
        self._deadline: asyncio.Future[float]
        self._end_at = float("inf")
        self._ending: asyncio.Timeout | None = None

    async def live(self, make_actor: Callable[[], Actor]) -> bool:
        """Return whether the actor could do its work."""
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.create_future()
        lifeline = self._lifeline
        lifeline.on_stop = lambda grace: self._end_within(grace, "supervisor")
        try:
            actor = make_actor()
            self._prepare(actor)
            lifeline.on_sibling = actor.sibling
            lifeline.on_orphaned = partial(self._orphaned, actor)
            await lifeline.open()
            if await self._begin(actor):
                lifeline.depth = actor.depth
                lifeline.ready()
                await self._deadline
            await self._end(actor)
        except CannotRun as error:
            log.error("cannot run", reason=str(error))
            lifeline.fail(str(error))
            return False
        except Exception as error:
            log.exception("actor failed")
            lifeline.fail(f"{type(error).__name__}: {error}")
            return False
        finally:
            await lifeline.close()
        return True

    def _prepare(self, actor: Actor) -> None:
        actor.prepare()
        try:
            actor.mailbox.bind()
        except OSError as error:
            raise CannotRun(f"mailbox: {error}") from error
        "".encode("idna")  # names are looked up by it, and another user may not be able to import it
        self._confine()

    async def _begin(self, actor: Actor) -> bool:
        """Start the actor and its mailbox; False when it was told to stop meanwhile."""
        starting = self._loop.create_task(actor.start(), name="actor start")
        either: list[asyncio.Future[Any]] = [starting, self._deadline]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
            return False
        starting.result()
        try:
            await actor.mailbox.start()
        except OSError as error:
            raise CannotRun(f"mailbox: {error}") from error
        return True

    async def _end(self, actor: Actor) -> None:
        try:
            # Not the future's result: a second request may have come between it and this.
            async with asyncio.timeout_at(self._end_at) as self._ending:
                await actor.stop(max(0.0, self._end_at - self._loop.time()))
        except TimeoutError:
            log.warning("stopped before everything was finished")
        finally:
            self._ending = None
            await actor.mailbox.close()

    def _orphaned(self, actor: Actor) -> None:
        actor.orphaned()
        self._end_within(actor.own_grace_s, "orphaned")

    def _end_within(self, grace: float, cause: str) -> None:
        deadline = self._loop.time() + max(0.0, grace)
        if deadline >= self._end_at:
            return
        self._end_at = deadline
        if not self._deadline.done():
            log.debug("stopping", cause=cause, grace_s=grace)
            self._deadline.set_result(deadline)
        elif self._ending is not None:
            self._ending.reschedule(deadline)
