"""The route registry's mailbox served by a test, and ways to wait in an event loop that has to go on serving it."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from symphony.config.snapshot import Snapshot
from symphony.mailbox.lifeline import ChildBeat, ChildReady
from symphony.mailbox.server import MailboxServer, Sender
from symphony.messages.registry import (
    RegistryReply,
    RegistryRequest,
    RoutesPublished,
    SnapshotApplied,
    Subscribed,
    SubscribeRoutes,
)
from tests.support.actor_process import LIMIT_S, ActorProcess, Stage


async def until(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait for `condition` with the event loop running; fail with `what` after `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        await asyncio.sleep(0.005)


async def ready(process: ActorProcess) -> None:
    """Wait until `process` is ready, with the event loop running."""
    while True:
        await until(lambda: select.select([process.lifeline], [], [], 0)[0], f"{process.name} says something")
        message = process.next_message()
        if isinstance(message, ChildReady):
            return
        assert isinstance(message, ChildBeat), f"{message}\n{process.log()}"


class RegistryStandIn:
    """Publishes what the test tells it to. `applied` has the acknowledgements as (subscriber, version)."""

    def __init__(self, stage: Stage, current: Snapshot | None = None) -> None:
        self.current = current
        self.subscribers: list[Sender] = []
        self.subscriptions: list[tuple[str, int]] = []
        self.applied: list[tuple[str, int]] = []
        self.mailbox = MailboxServer(stage.mailbox("route-registry"), RegistryRequest, self._answer)

    def _answer(self, message: RegistryRequest, sender: Sender) -> RegistryReply | None:
        if isinstance(message, SubscribeRoutes):
            self.subscribers.append(sender)
            self.subscriptions.append((message.subscriber, message.version))
            if self.current is not None and self.current.version != message.version:
                sender.push(RoutesPublished(self.current))
            return Subscribed(message.version)
        if isinstance(message, SnapshotApplied):
            self.applied.append((message.subscriber, message.version))
        return None

    def publish(self, snapshot: Snapshot) -> None:
        """Push `snapshot` to everybody who has subscribed."""
        self.current = snapshot
        for sender in self.subscribers:
            sender.push(RoutesPublished(snapshot))

    async def publish_and_wait(self, snapshot: Snapshot) -> None:
        """Push `snapshot` and wait until everybody serves it."""
        names = {name for name, _ in self.subscriptions}
        self.publish(snapshot)
        await until(
            lambda: all((name, snapshot.version) in self.applied for name in names),
            f"version {snapshot.version} is applied by all of {names}",
        )


@asynccontextmanager
async def registry(stage: Stage, current: Snapshot | None = None) -> AsyncIterator[RegistryStandIn]:
    """A registry that serves `current` from the beginning."""
    stand_in = RegistryStandIn(stage, current)
    await stand_in.mailbox.start()
    try:
        yield stand_in
    finally:
        await stand_in.mailbox.close()
