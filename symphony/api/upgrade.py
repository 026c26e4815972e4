"""Hands this instance over to a new supervisor: a fresh process of the same command line, and so of the code of now.

Until the new one has taken over, whatever happens to it leaves this one as it was: its processes go on accepting, and
the new one's touch nothing before it is their turn.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TypeVar

from structlog import get_logger

from symphony.api.channel import MOST_DESCRIPTORS, Channel, ChannelBroken
from symphony.api.generations import Generations
from symphony.api.heritage import Memory
from symphony.api.service_manager import ServiceManager
from symphony.api.successor import Successor
from symphony.api.takeover import ENVIRONMENT
from symphony.api.tree_dir import TreeDir, remove_dead
from symphony.host.activation import PassedSocket
from symphony.mailbox.address import RuntimeLock
from symphony.messages.succession import (
    PROTOCOL,
    Failed,
    Offer,
    OfferedListener,
    OfferedMemory,
    Prepared,
    Proceed,
    Sockets,
    SuccessionMessage,
    Taken,
    Withdrawn,
    Yours,
)

READY_WITHIN_S = 120.0
"""What the new one has from its start until all its processes are ready."""
TAKEN_WITHIN_S = 20.0
_ENDS_WITHIN_S = 10.0

log = get_logger("upgrade")


class UpgradeFailed(Exception):
    """The new supervisor did not take over; the text says why. `configuration`: by what its configuration says."""

    def __init__(self, reason: str, *, configuration: bool = False) -> None:
        super().__init__(reason)
        self.configuration = configuration


class Upgrade:
    """One attempt. `committed`: it is the new supervisor's turn, and not to be broken off any more."""

    def __init__(
        self,
        lock: RuntimeLock,
        tree_dir: TreeDir,
        generations: Generations,
        passed: Sequence[PassedSocket],
        memory: Mapping[str, Memory],
        manager: ServiceManager,
    ) -> None:
        self._memory = memory
        self.committed = False
        self._passed = passed
        self._manager = manager
        self._lock = lock
        self._tree_dir = tree_dir
        self._generations = generations

    async def run(self) -> Successor:
        """Start a new supervisor; return once it has taken over, and this one has only its connections left.

        Raises :class:`UpgradeFailed`. After that, and after a cancellation, everything is as it was before.
        """
        if os.getpid() == 1:
            raise UpgradeFailed(
                "process 1 cannot hand over, as its container ends with it: start another container"
            )
        channel, theirs = Channel.pair()
        try:
            process = self._start(theirs)
        except OSError as error:
            channel.close()
            raise UpgradeFailed(f"{sys.executable} cannot be started: {error.strerror}") from error
        finally:
            theirs.close()
        log.info("upgrading", successor=process.pid)
        try:
            await self._prepare(channel)
            self.committed = True
            return await self._change_places(channel, process)
        except ChannelBroken as error:
            raise UpgradeFailed(await _how_it_ended(process, str(error))) from error
        finally:
            if self._lock.held:
                await _dismiss(channel, process)
                remove_dead(self._tree_dir.runtime_dir)

    def _start(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        inherited = (theirs.fileno(), self._lock.fileno())
        environment = {**os.environ, ENVIRONMENT: ",".join(map(str, inherited))}
        # The service manager, too, takes the new one for this one.
        environment.pop("WATCHDOG_PID", None)
        # The interpreter by its path, where there may be another one by now, and what it was told then.
        return subprocess.Popen(  # noqa: S603 - our own command line
            [sys.executable, *sys.orig_argv[1:]],
            pass_fds=inherited,
            env=environment,
        )

    async def _prepare(self, channel: Channel) -> None:
        """Give the new one what there is, and wait until it is ready."""
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await self._offer(channel)
                await _expect(channel, Prepared)
        except TimeoutError:
            raise UpgradeFailed(f"the new process was not ready within {READY_WITHIN_S:g} s") from None

    async def _offer(self, channel: Channel) -> None:
        listeners = self._generations.current.listeners
        offered = tuple(
            OfferedListener(
                each.id, each.address, len(each.sockets), each.lasting, self._generations.drains(each)
            )
            for each in listeners
        )
        passed = tuple(each.name for each in self._passed)
        memory = tuple(OfferedMemory(name, each.layout) for name, each in self._memory.items())
        await channel.send(
            Offer(PROTOCOL, os.getpid(), self._tree_dir.runtime_dir, offered, passed, memory),
            [each.descriptor for each in self._memory.values()],
        )
        descriptors = [sock.fileno() for listener in listeners for sock in listener.sockets]
        descriptors += (each.sock.fileno() for each in self._passed)
        for start in range(0, len(descriptors), MOST_DESCRIPTORS):
            await channel.send(Sockets(), descriptors[start : start + MOST_DESCRIPTORS])

    async def _change_places(self, channel: Channel, process: subprocess.Popen[bytes]) -> Successor:
        try:
            self._tree_dir.step_aside()
        except OSError as error:
            raise UpgradeFailed(f"{self._tree_dir.runtime_dir}: no room for two: {error.strerror}") from error
        try:
            async with asyncio.timeout(TAKEN_WITHIN_S):
                await channel.send(Proceed())
                taken = await _expect(channel, Taken)
                self._generations.give_away()
                await self._manager.hand_over(process.pid)
                await channel.send(Yours())
        except BaseException as error:
            # Whatever it was, the new one may not serve alone: this one goes on.
            self._generations.take_over()
            self._manager.take_back()
            self._tree_dir.step_forward()
            self._lock.claim()
            if isinstance(error, TimeoutError):
                raise UpgradeFailed(
                    f"the new process did not take over within {TAKEN_WITHIN_S:g} s"
                ) from error
            raise
        self._lock.part_with()
        return Successor(process, channel, taken.addresses)


Answer = TypeVar("Answer", bound=SuccessionMessage)


async def _expect(channel: Channel, kind: type[Answer]) -> Answer:
    message, descriptors = await channel.receive()
    for descriptor in descriptors:
        os.close(descriptor)
    if isinstance(message, Failed):
        raise UpgradeFailed(message.reason, configuration=message.configuration)
    if not isinstance(message, kind):
        raise ChannelBroken(
            f"the new process said {type(message).__name__} where {kind.__name__} was expected"
        )
    return message


async def _how_it_ended(process: subprocess.Popen[bytes], otherwise: str) -> str:
    code = await _end_of(process)
    if code is None:
        return otherwise
    end = f"exit code {code}" if code >= 0 else f"signal {-code}"
    return f"the new process ended with {end} before it had taken over; what it said is in the log"


async def _dismiss(channel: Channel, process: subprocess.Popen[bytes]) -> None:
    """Make an end with a new supervisor that is not wanted: it stops when it hears of it, or is killed."""
    try:
        await channel.send(Withdrawn())
    except ChannelBroken:
        pass  # it went first
    channel.close()
    try:
        ended = await _end_of(process) is not None
    except asyncio.CancelledError:
        process.kill()
        process.wait()
        raise
    if not ended:
        log.warning("successor_killed", successor=process.pid)
        process.kill()
        process.wait()


async def _end_of(process: subprocess.Popen[bytes]) -> int | None:
    """The exit code, or None when there is none within _ENDS_WITHIN_S."""
    deadline = asyncio.get_running_loop().time() + _ENDS_WITHIN_S
    while (code := process.poll()) is None and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return code
