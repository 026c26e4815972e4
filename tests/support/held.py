"""Somebody who watches an acceptor's events and decides about the connections that it holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from symphony.config.model import Upstream
from symphony.mailbox.client import MailboxClient
from symphony.messages.acceptor import AcceptorReply
from symphony.messages.events import Event, EventsSubscribed, Released, SubscribeEvents, Suspended
from symphony.messages.held import HeldPage, HeldResolved, HeldRoute, ListHeld, ResolveHeld
from tests.support.loops import LIMIT_S, eventually


class Watcher:
    """`events` has all that the acceptor has said since it was asked to."""

    def __init__(self, path: str) -> None:
        self.events: list[Event] = []
        self.client = MailboxClient(path, AcceptorReply)
        self.client.on_push = self.events.append

    async def next_suspended(self, seen: int = 0) -> Suspended:
        """The event of that number (from 0) which says that a connection is held."""
        await eventually(lambda: len(self.suspended) > seen, f"{seen + 1} connections are held")
        return self.suspended[seen]

    @property
    def suspended(self) -> list[Suspended]:
        return [event for event in self.events if isinstance(event, Suspended)]

    @property
    def released(self) -> dict[str, str]:
        """What became of whom."""
        return {event.id: event.how for event in self.events if isinstance(event, Released)}

    async def wait_released(self, id: str) -> str:
        """What became of the connection `id`."""
        await eventually(lambda: id in self.released, f"{id} is held no more")
        return self.released[id]

    async def ask(self, message: Any) -> Any:
        """The answer, or Refused's exception."""
        return await self.client.call(message, LIMIT_S)

    async def resolve(
        self,
        id: str,
        *upstreams: Upstream,
        route: HeldRoute | None = None,
        **settings: Any,
    ) -> str:
        """Forward a connection; return what the acceptor says has come of it."""
        route = HeldRoute(upstreams, **settings) if route is None else route
        answer = await self.ask(ResolveHeld(id, route))
        assert isinstance(answer, HeldResolved)
        return answer.how

    async def reject(self, id: str) -> str:
        """Have a connection reset; return what the acceptor says has come of it."""
        answer = await self.ask(ResolveHeld(id, None))
        assert isinstance(answer, HeldResolved)
        return answer.how

    async def pages(self) -> list[HeldPage]:
        """All that is held now."""
        found: list[HeldPage] = []
        after = 0
        while True:
            page = await self.ask(ListHeld(after))
            assert isinstance(page, HeldPage)
            found.append(page)
            after = page.next
            if not after:
                return found


@asynccontextmanager
async def watching(path: str) -> AsyncIterator[Watcher]:
    """A watcher of the acceptor whose mailbox is at `path`."""
    watcher = Watcher(path)
    await watcher.client.connect()
    try:
        assert isinstance(await watcher.ask(SubscribeEvents()), EventsSubscribed)
        yield watcher
    finally:
        await watcher.client.close()


async def apart(function: Any, *arguments: Any) -> Any:
    """Call what blocks in a thread, so that events are heard meanwhile."""
    return await asyncio.wait_for(asyncio.to_thread(function, *arguments), LIMIT_S)
