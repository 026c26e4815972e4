"""What the service manager hears of this instance: ready, reloading, stopping, how it is, and that it is alive.

Alive means that somebody serves: a supervisor whose loop turns while every acceptor is in a crash loop is of no use to
anybody, and is to be started anew.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass

from structlog import get_logger

from symphony.host.notify import Notifier, monotonic_usec

_LOOK_EVERY_S = 2.0
_AGAIN_S = 0.05
_HEIR_WITHIN_S = 2.0
_AT_THE_END_S = 20.0
_BESIDES_DRAINING_S = 10.0


log = get_logger("service manager")


@dataclass(frozen=True, slots=True)
class Service:
    """How the instance is at this moment: acceptors that serve, acceptors that there should be, open connections."""

    serving: int
    wanted: int
    connections: int = 0

    @property
    def status(self) -> str:
        """One line for people."""
        if self.serving == self.wanted:
            return f"Serving with {_count(self.wanted)}"
        if self.serving:
            return f"Serving with {self.serving} of {_count(self.wanted)}"
        return f"Not serving: none of {_count(self.wanted)} runs"


class ServiceManager:
    """Tells the service manager, if there is one. `look` is asked again and again for how the instance is."""

    def __init__(self, notifier: Notifier, watchdog_s: float, look: Callable[[], Service]) -> None:
        """`watchdog_s` is how often to say that the service is alive, 0 for never."""
        self._notifier = notifier
        self._watchdog_s = watchdog_s
        self._look = look
        self._status = ""
        self._owed: dict[str, str | int] = {}
        self._stopping = False
        self._heir = 0
        self._heir_told = False
        self._timer: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """Everything serves, for the first time."""
        if not self._notifier.wanted:
            return
        self._status = self._look().status
        self._tell(READY=1, STATUS=self._status)
        self._tick()

    def reloading(self) -> None:
        """The configuration is about to be read; :meth:`reloaded` follows."""
        self._owed.pop("READY", None)
        self._tell(RELOADING=1, MONOTONIC_USEC=monotonic_usec())

    def reloaded(self) -> None:
        """The configuration has been read, and is in force or was refused."""
        for key in ("RELOADING", "MONOTONIC_USEC"):
            self._owed.pop(key, None)
        self._tell(READY=1)

    def stopping(self, drain_s: float) -> None:
        """No new connections are taken; the open ones have `drain_s` seconds. Said again: everything ends at once."""
        if self._stopping:
            return
        self._stopping = True
        extend = int((drain_s + _BESIDES_DRAINING_S) * 1e6)
        status = f"Stopping: open connections have {drain_s:g} s to end"
        self._tell(STOPPING=1, STATUS=status, EXTEND_TIMEOUT_USEC=extend)

    async def hand_over(self, pid: int) -> None:
        """Process `pid` takes this one's place: it is the service from now on, and speaks for itself.

        Waits a moment for a service manager that does not read, as what another process says counts for nothing before.
        """
        self.close()
        self._heir = pid
        await self._settle(_HEIR_WITHIN_S)

    def take_back(self) -> None:
        """It does not take this one's place after all."""
        if not self._heir:
            return
        self._heir = 0
        self._heir_told = False
        if self._notifier.wanted:
            self._owed = {"MAINPID": os.getpid()}
            self._status = ""
            self._tick()

    async def settle(self) -> None:
        """Wait until the service manager knows who has taken this one's place, if anybody has.

        To one that does not know, the end of this process is the end of the service.
        """
        if not await self._settle(_AT_THE_END_S):
            log.error("service_manager_not_told", main_process=self._heir)

    async def _settle(self, within_s: float) -> bool:
        deadline = asyncio.get_running_loop().time() + within_s
        while self._heir and not self._heir_told and self._notifier.wanted:
            self._heir_told = self._notifier.send(MAINPID=self._heir)
            if not self._heir_told and asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(0 if self._heir_told else _AGAIN_S)
        return True

    def close(self) -> None:
        """Say nothing more by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self, **fields: str | int) -> None:
        """Send `fields`; what cannot be sent now, as the service manager does not read, is sent with the next ones."""
        if self._heir:
            return
        self._owed.update(fields)
        if self._notifier.send(**self._owed):
            self._owed.clear()

    def _tick(self) -> None:
        every = min(self._watchdog_s or _LOOK_EVERY_S, _LOOK_EVERY_S)
        self._timer = asyncio.get_running_loop().call_later(every, self._tick)
        service = self._look()
        if self._stopping:
            self._tell(WATCHDOG=1, STATUS=f"Stopping: {_count(service.connections, 'connection')} open")
            self._owed.pop("WATCHDOG", None)
            return
        if service.status != self._status:
            self._status = service.status
            self._owed["STATUS"] = service.status
        if self._owed:
            self._tell()
        if self._watchdog_s and service.serving:
            self._notifier.send(WATCHDOG=1)


def _count(number: int, what: str = "acceptor") -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
