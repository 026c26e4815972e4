"""The supervisor that has taken over from this one, as this one sees it while it still has connections."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable

from symphony.api.channel import Channel, ChannelBroken
from symphony.messages.succession import Draining, Hasten, Left

_TELL_EVERY_S = 0.25


class Successor:
    """`pid` is its process; `addresses` are those of the listeners that it has taken over."""

    def __init__(
        self, process: subprocess.Popen[bytes], channel: Channel, addresses: tuple[str, ...]
    ) -> None:
        self.pid = process.pid
        self.addresses = addresses
        # Kept, since its destructor would complain that the process still runs.
        self._process = process
        self._channel = channel

    async def follow(self, left: Callable[[], tuple[Left, ...]], hasten: Callable[[float], None]) -> None:
        """Tell it who is `left`, and call ``hasten(grace_s)`` when it says so, until it is gone."""
        teller = asyncio.get_running_loop().create_task(self._tell(left), name="tell the successor")
        try:
            while True:
                message, _ = await self._channel.receive()
                if isinstance(message, Hasten):
                    hasten(message.grace_s)
        except ChannelBroken:
            return  # nobody is there to be told, or to tell
        finally:
            teller.cancel()

    async def hasten(self, grace_s: float) -> None:
        """Have it stop, too."""
        try:
            await self._channel.send(Hasten(grace_s))
        except ChannelBroken:
            return

    async def _tell(self, left: Callable[[], tuple[Left, ...]]) -> None:
        told: tuple[Left, ...] = ()
        try:
            while True:
                if (now := left()) != told:
                    await self._channel.send(Draining(now))
                    told = now
                await asyncio.sleep(_TELL_EVERY_S)
        except ChannelBroken:
            return
