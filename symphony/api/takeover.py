"""Takes over from a supervisor that has started this process for it: the other side of :mod:`symphony.api.upgrade`."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Collection, Mapping

from symphony.api.channel import Channel, ChannelBroken
from symphony.api.heritage import Memory
from symphony.api.listening import BoundListener
from symphony.host.activation import LastingSocket, PassedSocket
from symphony.mailbox.address import RuntimeDirError, RuntimeLock
from symphony.messages.succession import (
    PROTOCOL,
    Draining,
    Failed,
    Hasten,
    Left,
    Offer,
    Prepared,
    Proceed,
    Sockets,
    SuccessionMessage,
    Taken,
    Withdrawn,
    Yours,
)

ENVIRONMENT = "SYMPHONY_SUCCESSION"
"""Names the descriptors of the channel and of the runtime directory's lock, where there is something to take over."""

_OFFERED_WITHIN_S = 30.0
_ANSWERED_WITHIN_S = 60.0
_DEAD_WITHIN_S = 2.0
_LOOK_EVERY_S = 0.05


class TakeoverFailed(Exception):
    """The other supervisor does not give way; the text is one line that says why."""


class Predecessor:
    """The supervisor that is in place. `listeners`, `passed`, `runtime_dir` and `lock` are its own.

    `draining` are the addresses of those of its listeners that an operator has closed; `memory` is what its acceptors
    remember, by name.

    Once it `gave_way`, `left` is who still has connections of it and of those before it, until it is `gone`.
    """

    def __init__(
        self,
        channel: Channel,
        offer: Offer,
        lock: RuntimeLock,
        listeners: tuple[BoundListener, ...],
        passed: tuple[PassedSocket, ...],
        memory: Mapping[str, Memory],
    ) -> None:
        self.memory = memory
        self.draining = frozenset(each.address for each in offer.listeners if each.draining)
        self.pid = offer.pid
        self.runtime_dir = offer.runtime_dir
        self.lock = lock
        self.listeners = listeners
        self.passed = passed
        self.left: tuple[Left, ...] = ()
        self.gave_way = False
        self.gone = asyncio.Event()
        self._channel = channel
        self._withdrew = False

    def fail(self, reason: str, *, configuration: bool = False) -> None:
        """Tell why this process cannot take over. Not to be called while an event loop runs."""
        asyncio.run(self.give_up(reason, configuration=configuration))

    async def give_up(self, reason: str, *, configuration: bool = False) -> bool:
        """Tell why this process cannot take over; return whether it was there to be told."""
        try:
            await self._channel.send(Failed(reason, configuration))
        except ChannelBroken:
            await self._hear_last_words()
            return False
        finally:
            self._channel.close()
        return True

    async def await_turn(self) -> None:
        """Say that everything is ready, and wait until the other one has made room. Raises :class:`TakeoverFailed`."""
        await self._exchange(Prepared(), Proceed)

    async def take(self, addresses: Collection[str]) -> None:
        """Say that `addresses` are served; return when the sockets are this side's. Raises :class:`TakeoverFailed`."""
        await self._exchange(Taken(tuple(addresses)), Yours)
        self.gave_way = True

    async def is_dead(self) -> bool:
        """Whether it is gone, and not only done with this process; to be asked when it has ended the exchange."""
        if self._withdrew:
            return False
        deadline = asyncio.get_running_loop().time() + _DEAD_WITHIN_S
        # The kernel closes what a process has open before its children get another parent: on a busy machine, long.
        while (alive := os.getppid() == self.pid) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY_S)
        return not alive

    async def watch(self, hasten: Callable[[float], None]) -> None:
        """Follow what becomes of the other one until it is gone; call ``hasten(grace_s)`` if it was told to stop."""
        try:
            while True:
                message, _ = await self._channel.receive()
                if isinstance(message, Draining):
                    self.left = message.left
                elif isinstance(message, Hasten):
                    hasten(message.grace_s)
        except ChannelBroken:
            self.left = ()
            self.gone.set()
            self._channel.close()

    async def hasten(self, grace_s: float) -> None:
        """Have it end within `grace_s` seconds; the second time, at once."""
        try:
            await self._channel.send(Hasten(grace_s))
        except ChannelBroken:
            self.gone.set()

    async def _exchange(self, message: SuccessionMessage, answer: type[SuccessionMessage]) -> None:
        try:
            async with asyncio.timeout(_ANSWERED_WITHIN_S):
                await self._channel.send(message)
                received, _ = await self._channel.receive()
        except ChannelBroken as error:
            await self._hear_last_words()
            raise TakeoverFailed(f"process {self.pid} did not give way: {error}") from error
        except TimeoutError:
            raise TakeoverFailed(f"process {self.pid} does not answer") from None
        self._withdrew = isinstance(received, Withdrawn)
        if not isinstance(received, answer):
            raise TakeoverFailed(f"process {self.pid} said {type(received).__name__}")

    async def _hear_last_words(self) -> None:
        """Read on where the connection has closed: what was said last may stand behind the news of that."""
        for _ in range(2):
            try:
                message, _descriptors = await self._channel.receive()
            except ChannelBroken:
                continue
            self._withdrew = isinstance(message, Withdrawn)


def find_predecessor() -> Predecessor | None:
    """The supervisor that started this process so that it takes over, None where nobody did.

    Raises :class:`TakeoverFailed` when what it has to give does not come.
    """
    told = os.environ.pop(ENVIRONMENT, None)
    if told is None:
        return None
    try:
        descriptor, lock = map(int, told.split(","))
        sock = socket.socket(fileno=descriptor)
        sock.set_inheritable(False)
    except (ValueError, OSError) as error:
        raise TakeoverFailed(f"{ENVIRONMENT}={told} names no channel: {error}") from error
    try:
        return asyncio.run(_receive(Channel(sock), lock))
    except (ChannelBroken, RuntimeDirError) as error:
        raise TakeoverFailed(f"nothing was handed over: {error}") from error
    except TimeoutError:
        raise TakeoverFailed(f"nothing was handed over within {_OFFERED_WITHIN_S:g} s") from None


async def _receive(channel: Channel, lock: int) -> Predecessor:
    async with asyncio.timeout(_OFFERED_WITHIN_S):
        offer, attached = await channel.receive()
        if not isinstance(offer, Offer):
            raise ChannelBroken(f"{type(offer).__name__} instead of an offer")
        if offer.protocol != PROTOCOL:
            reason = f"version {offer.protocol} of handing over is not known, only {PROTOCOL}"
            await channel.send(Failed(reason))
            raise ChannelBroken(reason)
        descriptors: list[int] = []
        while len(descriptors) < sum(each.sockets for each in offer.listeners) + len(offer.passed):
            message, more = await channel.receive()
            if not isinstance(message, Sockets) or not more:
                raise ChannelBroken(f"{type(message).__name__} instead of sockets")
            descriptors += more
    memory = {each.name: Memory(each.layout, fd) for each, fd in zip(offer.memory, attached, strict=False)}
    for unknown in attached[len(offer.memory) :]:
        os.close(unknown)
    remaining = iter(descriptors)
    listeners = tuple(
        BoundListener(
            each.id,
            each.address,
            tuple(_socket(next(remaining), lasting=each.lasting) for _ in range(each.sockets)),
        )
        for each in offer.listeners
    )
    passed = tuple(PassedSocket(name, _lasting(next(remaining))) for name in offer.passed)
    return Predecessor(
        channel, offer, RuntimeLock.inherited(offer.runtime_dir, lock), listeners, passed, memory
    )


def _socket(descriptor: int, *, lasting: bool) -> socket.socket:
    if lasting:
        return _lasting(descriptor)
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return sock


def _lasting(descriptor: int) -> LastingSocket:
    sock = LastingSocket(fileno=descriptor)
    sock.setblocking(False)
    return sock
