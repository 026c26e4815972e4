"""Whom a program has asked to be told of events, and the telling: no handler harms another, or is waited for."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias, get_args

from symphony.api.events import QUEUE_LIMIT, SubscriberTooSlow

Kind: TypeAlias = Literal["suspended", "released", "blocked", "actor", "ready", "close", "error"]
Handler: TypeAlias = Callable[[Any], "Awaitable[object] | object"]

KINDS: tuple[Kind, ...] = get_args(Kind)

log = logging.getLogger(__name__)


class _Registered:
    """A handler, and how many of its calls have not come to an end."""

    __slots__ = ("handler", "kind", "unfinished")

    def __init__(self, kind: Kind, handler: Handler) -> None:
        self.kind = kind
        self.handler = handler
        self.unfinished = 0


class Handlers:
    """Handlers by the kind of event. One whose calls do not end is dropped once `limit` of them are open."""

    def __init__(self, limit: int = QUEUE_LIMIT) -> None:
        self._limit = limit
        self._registered: list[_Registered] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, kind: Kind, handler: Handler) -> Callable[[], None]:
        """Tell `handler` of all events of a kind from now on; returns what takes it back. Raises ValueError."""
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of event; expected one of {', '.join(KINDS)}")
        registered = _Registered(kind, handler)
        self._registered.append(registered)
        return lambda: self._drop(registered)

    def wants(self, *kinds: Kind) -> bool:
        """Whether anybody wants to be told of one of `kinds`."""
        return any(registered.kind in kinds for registered in self._registered)

    def tell(self, kind: Kind, event: Any) -> None:
        """Call all handlers of a kind. Needs a running event loop where one is ``async``."""
        for registered in tuple(self._registered):
            if registered.kind == kind:
                self._call(registered, event)

    async def finish(self, within_s: float) -> None:
        """Wait for the calls that are under way, but for the one that asks; cancel those that take longer."""
        pending = self._tasks - {asyncio.current_task()}
        if pending:
            _, late = await asyncio.wait(pending, timeout=within_s)
            for task in late:
                task.cancel()

    def _call(self, registered: _Registered, event: Any) -> None:
        if registered.unfinished >= self._limit:
            self._drop(registered)
            text = (
                f"{registered.unfinished} calls of a handler of {registered.kind!r} have not come to an end"
            )
            log.warning("%s: it is dropped", text)
            self._report(registered, SubscriberTooSlow(text))
            return
        try:
            result = registered.handler(event)
        except Exception as error:  # noqa: BLE001 - reported, as any handler's
            self._failed(registered, error)
            return
        if inspect.isawaitable(result):
            registered.unfinished += 1
            task = asyncio.get_running_loop().create_task(
                self._finish(registered, result), name=f"handler of {registered.kind}"
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _finish(self, registered: _Registered, result: Awaitable[object]) -> None:
        try:
            await result
        except Exception as error:  # noqa: BLE001 - reported, as any handler's
            self._failed(registered, error)
        finally:
            registered.unfinished -= 1

    def _failed(self, registered: _Registered, error: Exception) -> None:
        log.error("a handler of %r has failed", registered.kind, exc_info=error)
        self._report(registered, error)

    def _report(self, registered: _Registered, error: Exception) -> None:
        if registered.kind != "error":  # else one that fails would be told of that for ever
            self.tell("error", error)

    def _drop(self, registered: _Registered) -> None:
        if registered in self._registered:
            self._registered.remove(registered)
