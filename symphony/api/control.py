"""The mailbox of the process that supervises the others, for what concerns the proxy as a whole.

This process holds no key and no route. What it is asked for it does one thing at a time.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable, Callable

from structlog import get_logger

from symphony.api.background import BackgroundWork
from symphony.api.listener_drain import ListenerDrains
from symphony.api.names import CONTROL
from symphony.api.reconfigure import Reconfiguration
from symphony.api.upgrade import UpgradeFailed
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.envelope import Refused
from symphony.mailbox.server import MailboxServer, Sender
from symphony.messages.control import (
    AwaitDrained,
    ControlReply,
    ControlRequest,
    DescribeService,
    DrainBegun,
    Drained,
    DrainService,
    ReloadService,
    ResumeListener,
    ServiceDescription,
    ServiceUpgraded,
    UpgradeRefused,
    UpgradeService,
)
from symphony.messages.totals import DescribeTotals, ServiceTotals, TotalsDescription

log = get_logger("control")


class Control:
    """Answers all of :data:`ControlRequest`; needs a running event loop. Set the hooks before :meth:`start`.

    `upgrade` hands over to a new process and returns its pid, or raises :class:`UpgradeFailed`. `drain` begins to end
    everything within so many seconds (None: as configured), of which :meth:`drained` then tells.
    """

    reconfiguration: Reconfiguration
    listeners: ListenerDrains
    describe: Callable[[], ServiceDescription]
    totals: Callable[[], ServiceTotals]
    upgrade: Callable[[], Awaitable[int]]
    drain: Callable[[float | None], DrainBegun | Refused]

    def __init__(self, runtime_dir: str) -> None:
        self.successor = 0
        """The process that has taken over, 0 before."""
        self._ready = asyncio.Event()
        self._changing = asyncio.Lock()
        self._reload_wanted = False
        self._ends: list[asyncio.Future[ControlReply]] = []
        self._background = BackgroundWork(log, "control failed")
        path = mailbox_path(runtime_dir, CONTROL)
        self._mailbox = MailboxServer(
            path, ControlRequest, self._answer, from_workers=(DescribeService, DescribeTotals)
        )

    async def start(self) -> None:
        """Open the mailbox. Raises OSError."""
        await self._mailbox.start()
        self.reconfiguration.start()

    def ready(self) -> None:
        """All processes serve: changes may begin."""
        self._ready.set()

    def drained(self, cut: int) -> None:
        """Nothing runs any more: answer those who wait for it. `cut` connections did not end in time."""
        for end in self._ends:
            if not end.done():
                end.set_result(Drained(cut))

    async def close(self) -> None:
        """Close the mailbox; what is being changed is left as it is."""
        await self._background.cancel()
        self.listeners.close()
        await self.reconfiguration.close()
        await self._mailbox.close()

    def reload_soon(self) -> None:
        """Reload once. One that is under way is followed by another: it may have read the file too early."""
        if not self._reload_wanted:
            self._reload_wanted = True
            self._background.begin(self._reload_alone(), "reload")

    def upgrade_soon(self) -> None:
        """Upgrade, and log what came of it."""
        self._background.begin(self._upgrade_alone(), "upgrade")

    def follow_soon(self) -> None:
        """Look at what the registry has said."""
        self._background.begin(self._follow(), "follow the configuration")

    def _answer(self, message: ControlRequest, sender: Sender) -> ControlReply | Awaitable[ControlReply]:
        match message:
            case DescribeService():
                return self.describe()
            case DescribeTotals():
                return TotalsDescription(self.totals())
            case ReloadService():
                return self._reload()
            case UpgradeService():
                return self._upgrade()
            case DrainService(_, timeout_s) if timeout_s is not None and not 0 <= timeout_s < math.inf:
                return Refused("timeout_s must be a number of seconds, 0 or more")
            case DrainService("", timeout_s):
                return self.drain(timeout_s)
            case DrainService(listener, timeout_s):
                return self._change_listener(lambda: self.listeners.drain(listener, timeout_s))
            case ResumeListener(listener):
                return self._change_listener(lambda: self.listeners.resume(listener))
            case AwaitDrained(""):
                return self._end()
            case AwaitDrained(listener):
                return self.listeners.drained(listener)

    def _end(self) -> ControlReply | Awaitable[ControlReply]:
        if not self.describe().stopping:
            return Refused("it does not drain")
        end: asyncio.Future[ControlReply] = asyncio.get_running_loop().create_future()
        self._ends.append(end)
        return end

    async def _change_listener(self, change: Callable[[], Awaitable[ControlReply]]) -> ControlReply:
        async with self._changing:
            await self._ready.wait()
            if self.successor:
                return Refused(f"process {self.successor} has taken over")
            if self.describe().stopping:
                return Refused(f"process {os.getpid()} stops already")
            return await change()

    async def _reload(self) -> ControlReply:
        async with self._changing:
            await self._ready.wait()
            if self.successor:
                return Refused(f"process {self.successor} has taken over")
            return await self.reconfiguration.reload()

    async def _reload_alone(self) -> None:
        async with self._changing:
            self._reload_wanted = False
        reply = await self._reload()
        if isinstance(reply, Refused):
            log.warning("not reloaded", reason=reply.reason)

    async def _follow(self) -> None:
        async with self._changing:
            await self._ready.wait()
            if not self.successor:
                await self.reconfiguration.follow()

    async def _upgrade(self) -> ControlReply:
        async with self._changing:
            await self._ready.wait()
            if self.successor:
                return UpgradeRefused(f"process {self.successor} has taken over already", False)
            try:
                self.successor = await self.upgrade()
            except UpgradeFailed as error:
                log.error("not upgraded", reason=str(error))
                return UpgradeRefused(str(error), error.configuration)
            log.info("upgraded", successor=self.successor)
            return ServiceUpgraded(self.successor)

    async def _upgrade_alone(self) -> None:
        await self._upgrade()
