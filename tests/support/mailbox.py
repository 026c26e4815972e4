"""A small mailbox protocol for tests, and a sender that may break every rule."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
from msgspec import Struct

from symphony.mailbox.address import RuntimeLock, prepare_runtime_dir
from symphony.mailbox.client import MailboxClient
from symphony.mailbox.envelope import PROTOCOL_VERSION, Envelope, EnvelopeDecoder, Refused
from symphony.mailbox.framing import FrameDecoder, encode_frame
from symphony.mailbox.server import MailboxServer, Sender
from tests.support.loops import LIMIT_S, wait_connected


@contextmanager
def socket_path() -> Iterator[str]:
    """Where a mailbox may be, in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="sy", dir="/tmp") as directory:
        yield os.path.join(directory, "actor.sock")


@contextmanager
def live_runtime_dir() -> Iterator[str]:
    """The runtime directory of an instance that runs, as far as its lock tells."""
    with tempfile.TemporaryDirectory(prefix="sy", dir="/tmp") as base:
        path = os.path.join(base, "run")
        prepare_runtime_dir(path)
        lock = RuntimeLock(path)
        lock.acquire()
        try:
            yield path
        finally:
            lock.release()


class Echo(Struct, frozen=True, array_like=True, tag=True):
    """Answered by :class:`Echoed`."""

    text: str


class Wait(Struct, frozen=True, array_like=True, tag=True):
    """Answered by :class:`Echoed` once the gate is open."""

    text: str


class Explode(Struct, frozen=True, array_like=True, tag=True):
    """Fails, at once or after a turn of the loop."""

    later: bool


class Note(Struct, frozen=True, array_like=True, tag=True):
    """Has no reply."""

    text: str


class Big(Struct, frozen=True, array_like=True, tag=True):
    """Answered by :class:`Echoed` with `size` letters."""

    size: int


class Unsayable(Struct, frozen=True, array_like=True, tag=True):
    """Answered by what msgpack cannot say."""


class Echoed(Struct, frozen=True, array_like=True, tag=True):
    text: Any


Request = Echo | Wait | Explode | Note | Big | Unsayable
Reply = Echoed | Refused


class Actor:
    """What serves the test's mailbox: remembers what came, and lets :class:`Wait` wait for `gate`."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.senders: list[Sender] = []
        self.gate = asyncio.Event()

    def handle(self, message: Any, sender: Sender) -> Any:
        self.seen.append(message)
        if sender not in self.senders:
            self.senders.append(sender)
        match message:
            case Echo(text):
                return Echoed(text)
            case Wait(text):
                return self._wait(text)
            case Explode(later):
                if not later:
                    raise ZeroDivisionError("at once")
                return self._explode()
            case Big(size):
                return Echoed("x" * size)
            case Unsayable():
                return Echoed(object())
            case _:
                return None

    async def _wait(self, text: str) -> Echoed:
        await self.gate.wait()
        return Echoed(text)

    async def _explode(self) -> Echoed:
        await asyncio.sleep(0)
        raise ZeroDivisionError("later")


@asynccontextmanager
async def serving(path: str, **options: int) -> AsyncIterator[tuple[MailboxServer, Actor]]:
    actor = Actor()
    server = MailboxServer(path, Request, actor.handle, **options)
    await server.start()
    try:
        yield server, actor
    finally:
        await server.close()


@asynccontextmanager
async def connected(path: str) -> AsyncIterator[MailboxClient]:
    client = MailboxClient(path, Reply)
    client.start()
    try:
        assert await wait_connected(client, LIMIT_S)
        yield client
    finally:
        await client.close()


class RawPeer:
    """A connection on which a test reads and writes bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._frames = FrameDecoder(64 << 20)
        self._replies = EnvelopeDecoder(Reply)
        self._requests = EnvelopeDecoder(Request)
        self._waiting: list[Envelope[Any]] = []

    @staticmethod
    def frame(message: Any, id: int = 1, deadline: float = 0.0, version: int = PROTOCOL_VERSION) -> bytes:
        return encode_frame(msgspec.msgpack.encode(Envelope(version, id, deadline, message)))

    def send(self, message: Any, id: int = 1, deadline: float = 0.0) -> None:
        self.writer.write(self.frame(message, id, deadline))

    async def receive(self) -> Envelope[Any] | None:
        """Return the next reply or push, None when the connection ends."""
        return await self._next(self._replies)

    async def receive_request(self) -> Envelope[Any] | None:
        """Return the next request or cast, None when the connection ends."""
        return await self._next(self._requests)

    async def _next(self, decoder: EnvelopeDecoder) -> Envelope[Any] | None:
        while not self._waiting:
            async with asyncio.timeout(LIMIT_S):
                try:
                    data = await self.reader.read(1 << 16)
                except ConnectionError:
                    data = b""
            if not data:
                return None
            self._waiting += [decoder.decode(payload) for payload in self._frames.feed(data)]
        return self._waiting.pop(0)

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass


@asynccontextmanager
async def raw_peer(path: str) -> AsyncIterator[RawPeer]:
    peer = RawPeer(*await asyncio.open_unix_connection(path))
    try:
        yield peer
    finally:
        await peer.close()
