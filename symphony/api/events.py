"""Everything that the acceptors of a running instance tell, as one stream of events.

    async with EventFeed(runtime_dir) as feed:
        async for event in feed.subscribe():
            ...

The feed connects to every acceptor's mailbox by itself, and again when one has been restarted; acceptors may come and
go. What they hold it knows from their events and, after each connection that it makes, from their lists. So it can tell
what no acceptor can: that the one which held a connection is gone, and the connection with it (:class:`Released`,
"gone"). That is also said of a connection that ended while the acceptor could not be heard.

Events are for people and programs that watch: of :class:`Blocked`, those that are told while an acceptor cannot be
heard are lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Any

from symphony.api.asking import acceptors_in
from symphony.mailbox.address import RuntimeDirError, live_pid, mailbox_path
from symphony.mailbox.client import MailboxClient
from symphony.messages.acceptor import AcceptorReply
from symphony.messages.events import Blocked, Event, EventsSubscribed, Released, SubscribeEvents, Suspended
from symphony.messages.held import HeldPage, ListHeld

QUEUE_LIMIT = 10_000
"""How many events wait at most for a subscriber that does not read."""

LOOK_EVERY_S = 0.25
"""How often the runtime directory is looked at for acceptors that have come or gone."""

GONE_AFTER_S = 3.0
"""An acceptor that cannot be heard for so long has lost its connections; most are back within a fraction of that."""

ENDED_AFTER_S = 1.0
"""The stream ends when no acceptor can be heard and nothing has run in the directory for so long."""

GONE = "gone"

_ANSWER_WITHIN_S = 5.0
_ASK_AGAIN_S = 0.5

log = logging.getLogger(__name__)


class SubscriberTooSlow(Exception):
    """The subscriber did not read its events and hears no more; the text says how many had waited."""


class Subscription:
    """An asynchronous iterator over events: first those that tell what is held already, then all from now on.

    It ends when it or its feed is closed, or when the instance has ended. Raises :class:`SubscriberTooSlow` when more
    than `limit` events wait to be read; those are then lost, and it hears no more.
    """

    def __init__(self, limit: int, held: list[Suspended], leave: Callable[[Subscription], None]) -> None:
        self._limit = limit
        self._first: deque[Event] = deque(held)
        self._waiting: deque[Event] = deque()
        self._changed = asyncio.Event()
        self._leave = leave
        self._ended = False
        self._overrun = ""

    def put(self, event: Event) -> None:
        """Add an event; for the feed."""
        if self._ended:
            return
        if len(self._waiting) >= self._limit:
            self._overrun = f"{self._limit} events waited for a subscriber that does not read them"
            log.warning("%s: it is dropped", self._overrun)
            self._first.clear()
            self._waiting.clear()
            self.close()
            return
        self._waiting.append(event)
        self._changed.set()

    def close(self) -> None:
        """Hear no more; what waits can still be read."""
        if not self._ended:
            self._ended = True
            self._changed.set()
            self._leave(self)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        while True:
            if self._first:
                return self._first.popleft()
            if self._waiting:
                return self._waiting.popleft()
            if self._overrun:
                raise SubscriberTooSlow(self._overrun)
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()


class EventFeed:
    """Hears all acceptors of the instance in `runtime_dir`, for any number of subscribers in this event loop."""

    def __init__(self, runtime_dir: str) -> None:
        self._runtime_dir = runtime_dir
        self._acceptors: dict[str, _Acceptor] = {}
        self._held: dict[str, Suspended] = {}
        self._subscriptions: set[Subscription] = set()
        self._watching: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    @property
    def held(self) -> Mapping[str, Suspended]:
        """What is held now, by id, as far as it has been heard."""
        return MappingProxyType(self._held)

    @property
    def connected(self) -> int:
        """How many acceptors are heard, their lists included."""
        return sum(acceptor.listed for acceptor in self._acceptors.values())

    def start(self) -> None:
        """Begin to listen. Needs a running event loop."""
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch(), name="watch acceptors")

    async def close(self) -> None:
        """Stop; all subscriptions end."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])
        await self._end(lost=False)

    async def __aenter__(self) -> EventFeed:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def subscribe(self, limit: int = QUEUE_LIMIT) -> Subscription:
        """A new subscription, of which at most `limit` events may wait; what is held already comes on top."""
        subscription = Subscription(limit, list(self._held.values()), self._subscriptions.discard)
        if self._ended.is_set():
            subscription.close()
        else:
            self._subscriptions.add(subscription)
        return subscription

    async def _watch(self) -> None:
        """Follow the acceptors that there are, until nothing runs any more."""
        lost = False
        try:
            await self._follow()
            lost = True
        except Exception:
            # Nobody waits for this task: its subscribers would wait for ever.
            log.exception("%s: events cannot be followed", self._runtime_dir)
        await self._end(lost)

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        silent_since: float | None = None
        while True:
            await self._look()
            if any(acceptor.client.connected for acceptor in self._acceptors.values()) or self._runs():
                silent_since = None
            elif silent_since is None:
                silent_since = loop.time()
            elif loop.time() - silent_since >= ENDED_AFTER_S:
                return
            await asyncio.sleep(LOOK_EVERY_S)

    def _runs(self) -> bool:
        try:
            return live_pid(self._runtime_dir) is not None
        except RuntimeDirError:
            return False

    async def _look(self) -> None:
        try:
            there = set(acceptors_in(self._runtime_dir))
        except OSError:
            there = set()
        for name in sorted(there - self._acceptors.keys()):
            acceptor = self._acceptors[name] = _Acceptor(self._runtime_dir, name, self._hear)
            acceptor.client.start()
        for name in sorted(self._acceptors.keys() - there):
            acceptor = self._acceptors[name]
            # Still connected, it is about to stop and has more to tell.
            if not acceptor.client.connected:
                await acceptor.close(lost=True)
                del self._acceptors[name]

    def _hear(self, event: Event) -> None:
        if isinstance(event, Suspended):
            self._held[event.id] = event
        elif isinstance(event, Released):
            self._held.pop(event.id, None)
        for subscription in tuple(self._subscriptions):
            subscription.put(event)

    async def _end(self, lost: bool) -> None:
        for acceptor in tuple(self._acceptors.values()):
            await acceptor.close(lost)
        self._acceptors.clear()
        self._ended.set()
        for subscription in tuple(self._subscriptions):
            subscription.close()


class _Acceptor:
    """One acceptor, over all its lives. `listed`: its events are heard, and its list has been read since."""

    def __init__(self, runtime_dir: str, name: str, tell: Callable[[Event], None]) -> None:
        self.listed = False
        self.client = MailboxClient(mailbox_path(runtime_dir, name), AcceptorReply, name=name)
        self.client.on_up = self._up
        self.client.on_down = self._down
        self.client.on_push = self._hear
        self._tell = tell
        self._held: dict[str, None] = {}
        self._seen: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def close(self, lost: bool) -> None:
        """Hear it no more; `lost`: because it is not there any more, nor what it held."""
        self.client.on_down = None
        self._stop_timer()
        await self.client.close()
        if lost:
            self._give_up()

    def _up(self) -> None:
        self._stop_timer()
        self._seen.clear()
        self._subscribe()

    def _down(self) -> None:
        self.listed = False
        self._start_timer(GONE_AFTER_S, self._give_up)

    def _subscribe(self) -> None:
        self._timer = None
        self.client.request(SubscribeEvents(), self._subscribed, _ANSWER_WITHIN_S)

    def _subscribed(self, reply: Any) -> None:
        if isinstance(reply, EventsSubscribed):
            self._ask_list(0)
        else:
            self._ask_again(reply)

    def _ask_list(self, after: int) -> None:
        self.client.request(ListHeld(after), self._page, _ANSWER_WITHIN_S)

    def _page(self, reply: Any) -> None:
        if not isinstance(reply, HeldPage):
            self._ask_again(reply)
            return
        for held in reply.held:
            self._hear(held)
        if reply.next:
            self._ask_list(reply.next)
            return
        self.listed = True
        self._lose([id for id in self._held if id not in self._seen])

    def _ask_again(self, reply: Any) -> None:
        """It is there, but does not answer as it should; a lost connection begins anew by itself."""
        if self.client.connected and self._timer is None:
            log.warning("%s: no events: %s", self.client.name, getattr(reply, "reason", "no answer"))
            self._start_timer(_ASK_AGAIN_S, self._subscribe)

    def _hear(self, message: Any) -> None:
        match message:
            case Suspended(id):
                self._seen.add(id)
                if id not in self._held:
                    self._held[id] = None
                    self._tell(message)
            case Released(id):
                self._seen.discard(id)
                # One that was never told of is nobody's: it came and went before its page of the list was read.
                if id in self._held:
                    del self._held[id]
                    self._tell(message)
            case Blocked():
                self._tell(message)

    def _give_up(self) -> None:
        self._timer = None
        self._lose(list(self._held))

    def _lose(self, ids: list[str]) -> None:
        for id in ids:
            del self._held[id]
            self._tell(Released(id, GONE))

    def _start_timer(self, delay_s: float, action: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(delay_s, action)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
