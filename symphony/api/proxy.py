"""The proxy as a Python object: start one, or drive one that runs.

    async with SymphonyProxy({"listeners": [...], "routes": [...]}) as proxy:
        proxy.on("suspended", decide)
        await proxy.wait_closed()

Everything is asynchronous and belongs to one event loop. What runs is a tree of processes; this object speaks to it
over its mailboxes, as the commands do.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Literal, TypeAlias, overload

from symphony.api.actor_watch import ActorChanged, ActorWatch
from symphony.api.blocked import BlockedReport, list_blocked
from symphony.api.document import (
    ConfigLike,
    RoutesLike,
    make_document,
    make_routes,
    plain,
    replace_protection,
)
from symphony.api.draining import drain, resume_listener
from symphony.api.errors import NotOurs, NotRunning, RouteRefused, UnknownConnection
from symphony.api.events import QUEUE_LIMIT, EventFeed
from symphony.api.handlers import Handler, Handlers, Kind
from symphony.api.held import UNKNOWN, list_held, resolve_held
from symphony.api.hosted import HostedTree
from symphony.api.resolution import RouteLike, held_route
from symphony.api.status import Status, gather_status
from symphony.api.telemetry import TelemetrySource
from symphony.mailbox.address import RuntimeDirError, live_pid
from symphony.mailbox.client import MailboxError, MailboxRefused
from symphony.messages.events import Blocked, Event, Released, Suspended
from symphony.observe.telemetry import Telemetry

HANDLERS_WITHIN_S = 5.0
"""How long a stop waits for calls of handlers that are under way."""
LOOK_EVERY_S = 0.25
ENDED_AFTER_S = 1.0
"""An attached instance has ended when nothing has run for so long: a new version may take over from it."""

ProxyEvent: TypeAlias = "Event | ActorChanged"

_KIND_OF: dict[type, Kind] = {
    Suspended: "suspended",
    Released: "released",
    Blocked: "blocked",
    ActorChanged: "actor",
}


class SymphonyProxy:
    """A proxy with a tree of processes of its own, or, by :meth:`attach`, one that runs already.

    `config` is a :class:`symphony.Config`, a mapping of the same shape, or the path of a file; PEM may be bytes. The
    tree has a private runtime directory and ends with this program, also when the program is killed.
    """

    def __init__(self, config: ConfigLike, *, log_level: str = "warning") -> None:
        self._config: ConfigLike | None = config
        self._log_level = log_level
        self._document: dict[str, Any] = {}
        self._tree: HostedTree | None = None
        self._runtime_dir = ""
        self._handlers = Handlers()
        self._tasks: set[asyncio.Task[None]] = set()
        self._telling: asyncio.Task[None] | None = None
        self._feed: EventFeed | None = None
        self._source: TelemetrySource | None = None
        self._closed = asyncio.Event()
        self._watching = False

    @classmethod
    def attach(cls, runtime_dir: str | os.PathLike[str]) -> SymphonyProxy:
        """The instance that runs in `runtime_dir`. Leaving its ``async with`` leaves it running.

        Raises :class:`NotRunning`.
        """
        proxy = cls({})
        proxy._config = None
        proxy._runtime_dir = os.fspath(runtime_dir)
        if not os.path.isdir(proxy._runtime_dir) or live_pid(proxy._runtime_dir) is None:
            raise NotRunning(f"nothing runs in {proxy._runtime_dir}")
        return proxy

    @property
    def runtime_dir(self) -> str:
        """Where the instance's mailboxes are. Raises :class:`NotRunning` before the start."""
        if not self._runtime_dir:
            raise NotRunning("the proxy was not started")
        return self._runtime_dir

    async def __aenter__(self) -> SymphonyProxy:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the tree and wait until it serves. Raises :class:`ConfigError` or :class:`StartFailed`."""
        if self._config is not None and self._tree is None:
            self._document = make_document(self._config)
            self._document.pop("runtime_dir", None)  # a tree of its own has one of its own
            tree = HostedTree(self._log_level)
            try:
                tree.replace_config(await asyncio.to_thread(tree.check, self._document))
                await tree.start()
            except BaseException:
                await tree.stop(0.0)
                tree.remove()
                raise
            self._tree, self._runtime_dir = tree, tree.runtime_dir
            self._spawn(self._wait_for_end(tree), "wait for the tree's end")
        elif self._config is None and not self._watching:
            self._watching = True
            self._spawn(self._wait_for_other(), "wait for the instance's end")
        self._start_telling()
        self._handlers.tell("ready", None)

    async def stop(self, grace_s: float | None = None) -> None:
        """Stop a tree of our own within `grace_s` (default: its `drain_timeout_ms`); let go of any other."""
        if self._feed is not None:
            await self._feed.close()
            self._feed = None
        tree, self._tree = self._tree, None
        if tree is not None:
            if grace_s is None:
                grace_s = float(self._document.get("drain_timeout_ms", 30_000)) / 1000
            await tree.stop(grace_s)
            await asyncio.to_thread(tree.remove)
            self._runtime_dir = ""
        self._end()
        if self._telling is not None:
            self._telling.cancel()
        pending = self._tasks - {asyncio.current_task()}
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
        await self._handlers.finish(HANDLERS_WITHIN_S)

    async def wait_closed(self) -> None:
        """Wait until the instance has ended."""
        await self._closed.wait()

    # Configuration

    async def update_config(
        self,
        *,
        routes: RoutesLike | None = None,
        listeners: Sequence[Any] | None = None,
        protection: Any = None,
        **others: Any,
    ) -> int:
        """Replace parts of the configuration, all or none of them; return the version then in force.

        Every acceptor serves it by then, but for those that hang, which begin with it when they have been replaced.

        `routes` and `listeners` replace all routes and listeners; `routes` may also be a whole configuration, of which
        they are taken, or its path. `protection` is that of every listener, or a mapping from ports to protections for
        those listeners alone; each replaces a protection as a whole. `others` are further top-level keys, such as
        `access_log`. Raises :class:`ConfigError` with every finding, :class:`ReloadFailed`,
        and :class:`NotOurs` for an attached instance.
        """
        tree = self._tree
        if tree is None:
            if self._config is None:
                raise NotOurs("an attached instance is configured by its own file: write that and reload")
            raise NotRunning("the proxy was not started")
        self._pid()
        document = dict(self._document)
        if routes is not None:
            document["routes"] = await asyncio.to_thread(make_routes, routes)
        for key, value in {"listeners": listeners, **others}.items():
            if value is not None:
                document[key] = plain(value)
        if protection is not None:
            document["listeners"] = replace_protection(document.get("listeners", []), protection)
        version = await tree.reconfigure(document)
        self._document = document
        return version

    # Draining

    async def drain(
        self,
        timeout_s: float | None = None,
        *,
        listener: str = "",
        on_change: Callable[[int], None] | None = None,
    ) -> int:
        """Let nobody in any more, and return, once no connection is left, how many had to be cut.

        That is the end of the instance, unless only a `listener` (its id or its address) is drained: the rest goes on
        then, and :meth:`resume` takes it back. What is open still after `timeout_s` seconds is cut; None stands for the
        configuration's `drain_timeout_ms`, and for no limit for one listener. `on_change` is called with the number of
        connections that are left. A caller that is cancelled only ends the waiting.

        Raises MailboxRefused when there is no such listener, or everything ends already.
        """
        self._pid()
        return await drain(self.runtime_dir, timeout_s, listener, on_change)

    async def resume(self, listener: str) -> None:
        """Let clients in again on a listener that drains. Raises MailboxRefused when there is none such."""
        self._pid()
        done = await resume_listener(self.runtime_dir, listener)
        if done.behind:
            raise MailboxError(f"not yet taken up by {', '.join(done.behind)}")

    # Looking

    async def status(self) -> Status:
        """What ``symphony status`` shows."""
        return await gather_status(self.runtime_dir, self._pid())

    async def metrics(self) -> Telemetry:
        """Everything that is counted. No total goes back between two calls."""
        if self._source is None:
            self._source = TelemetrySource(self.runtime_dir)
        self._pid()
        return await self._source.gather()

    async def suspended(self) -> tuple[Suspended, ...]:
        """The connections that are held now."""
        self._pid()
        return (await list_held(self.runtime_dir)).held

    async def blocked_ips(self, limit: int = 10_000) -> BlockedReport:
        """Who would be refused now, at most `limit` of them, and what the configuration lists."""
        self._pid()
        return await list_blocked(self.runtime_dir, limit)

    # Deciding

    async def resolve_connection(
        self, connection_id: str, route: RouteLike | None, *, must_exist: bool = False
    ) -> bool:
        """Forward a held connection as `route` says, or reset it (None); return whether it was still held.

        One that is not held any more is nothing to worry about, unless it `must_exist`: then
        :class:`UnknownConnection` is raised. Raises :class:`ConfigError` with every finding in `route`, and
        :class:`RouteRefused` where it does not go with the suspended route; the connection is then held on.
        """
        self._pid()
        wanted = None if route is None else await asyncio.to_thread(held_route, route)
        try:
            how = await resolve_held(self.runtime_dir, connection_id, wanted)
        except MailboxRefused as error:
            raise RouteRefused(str(error)) from None
        if how == UNKNOWN and must_exist:
            raise UnknownConnection(connection_id)
        return how != UNKNOWN

    # Events

    @overload
    def on(
        self, kind: Literal["suspended"], handler: Callable[[Suspended], object]
    ) -> Callable[[], None]: ...
    @overload
    def on(self, kind: Literal["released"], handler: Callable[[Released], object]) -> Callable[[], None]: ...
    @overload
    def on(self, kind: Literal["blocked"], handler: Callable[[Blocked], object]) -> Callable[[], None]: ...
    @overload
    def on(self, kind: Literal["actor"], handler: Callable[[ActorChanged], object]) -> Callable[[], None]: ...
    @overload
    def on(self, kind: Literal["error"], handler: Callable[[Exception], object]) -> Callable[[], None]: ...
    @overload
    def on(
        self, kind: Literal["ready", "close"], handler: Callable[[None], object]
    ) -> Callable[[], None]: ...

    def on(self, kind: Kind, handler: Handler) -> Callable[[], None]:
        """Call `handler`, plain or ``async``, with every event of a kind; returns what takes it back.

        Kinds: "suspended", "released", "blocked", "actor" (their events), "error" (an exception), "ready" and "close"
        (None). What a handler raises is logged, told to those of "error", and harms nobody. One whose calls never come
        to an end is dropped, which is told likewise (SubscriberTooSlow).
        """
        take_back = self._handlers.add(kind, handler)
        self._start_telling()
        return take_back

    async def events(self, limit: int = QUEUE_LIMIT) -> AsyncIterator[ProxyEvent]:
        """All events from now on, first those that tell what is held already.

        Ends with the instance. Raises SubscriberTooSlow when more than `limit` wait to be read.
        """
        feed = self._open_feed()
        subscription = feed.subscribe(limit)
        watch = ActorWatch(self.runtime_dir, subscription.put)
        watching = asyncio.get_running_loop().create_task(watch.run(), name="watch actors")
        try:
            async for event in subscription:
                yield event
        finally:
            subscription.close()
            watching.cancel()

    def _open_feed(self) -> EventFeed:
        if self._feed is None:
            self._pid()
            self._feed = EventFeed(self.runtime_dir)
            self._feed.start()
        return self._feed

    def _start_telling(self) -> None:
        wanted = self._handlers.wants("suspended", "released", "blocked", "actor")
        if wanted and self._runtime_dir and self._telling is None:
            self._telling = self._spawn(self._tell_all(), "tell handlers")

    async def _tell_all(self) -> None:
        try:
            async for event in self.events():
                self._handlers.tell(_KIND_OF[type(event)], event)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - told to those who asked for errors
            self._handlers.tell("error", error)
        finally:
            self._telling = None

    def _spawn(self, work: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _wait_for_end(self, tree: HostedTree) -> None:
        await tree.wait()
        self._end()

    async def _wait_for_other(self) -> None:
        """Wait until nothing runs any more in the directory of an instance that is not ours to wait for."""
        loop = asyncio.get_running_loop()
        seen = loop.time()
        while loop.time() - seen < ENDED_AFTER_S:
            await asyncio.sleep(LOOK_EVERY_S)
            if _runs_in(self._runtime_dir):
                seen = loop.time()
        self._end()

    def _end(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._handlers.tell("close", None)

    def _pid(self) -> int:
        pid = live_pid(self.runtime_dir)
        if pid is None:
            raise NotRunning(f"nothing runs in {self.runtime_dir}")
        return pid


def _runs_in(runtime_dir: str) -> bool:
    try:
        return live_pid(runtime_dir) is not None
    except RuntimeDirError:
        return False
