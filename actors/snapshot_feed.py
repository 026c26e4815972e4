"""The snapshots that reach an acceptor: from the registry, or from the disk while the registry is silent."""

from __future__ import annotations

import asyncio

from structlog import get_logger

from actors.runtime import CannotRun
from symphony.config.snapshot import Snapshot
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxClient
from symphony.messages.registry import RegistryReply, RoutesPublished, SnapshotApplied, SubscribeRoutes
from symphony.routing.snapshot_store import SnapshotStore, SnapshotStoreError

REGISTRY_ANSWERS_WITHIN_S = 0.25
FIRST_SNAPSHOT_WITHIN_S = 5.0

log = get_logger("acceptor")


class SnapshotFeed:
    """Asks the registry for snapshots on behalf of `subscriber`, and tells it which one is served."""

    def __init__(self, runtime_dir: str, registry: str, subscriber: str) -> None:
        self._subscriber = subscriber
        self._stored = SnapshotStore(runtime_dir)
        self._newest: Snapshot | None = None
        self._served = 0
        self._arrived = asyncio.Event()
        self._registry = MailboxClient(mailbox_path(runtime_dir, registry), RegistryReply, name=registry)
        self._registry.on_up = self._subscribe
        self._registry.on_push = self._take
        self.start = self._registry.start
        self.close = self._registry.close

    def hold_stored(self) -> None:
        """Hold on to the snapshot on disk, which another user could not open."""
        try:
            self._stored.hold()
        except SnapshotStoreError as error:
            log.error("stored_snapshot_unusable", error=str(error))

    async def first(self) -> Snapshot:
        """What the registry publishes, or what it left on disk when it does not answer. Raises :class:`CannotRun`."""
        if await self._has_arrived(REGISTRY_ANSWERS_WITHIN_S) is None:
            try:
                stored = self._stored.load()
            except SnapshotStoreError as error:
                log.error("stored_snapshot_unusable", error=str(error))
                stored = None
            if stored is not None and self._newest is None:
                self._newest = stored.snapshot
                log.warning(
                    "registry_silent", serving="the snapshot on disk", version=stored.snapshot.version
                )
        snapshot = self._newest or await self._has_arrived(FIRST_SNAPSHOT_WITHIN_S)
        if snapshot is None:
            raise CannotRun("no snapshot from the route registry, and none on disk")
        return snapshot

    async def other_than(self, version: int, failed: Snapshot | None = None) -> Snapshot:
        """The newest snapshot, once it has another version and is not the one that `failed`.

        Those between are passed over. One that failed is tried again when it is published again.
        """
        while self._newest is None or self._newest is failed or self._newest.version == version:
            self._arrived.clear()
            await self._arrived.wait()
        return self._newest

    def served(self, version: int) -> None:
        """Tell the registry what is served."""
        self._served = version
        self._registry.cast(SnapshotApplied(self._subscriber, version))

    async def _has_arrived(self, timeout_s: float) -> Snapshot | None:
        try:
            await asyncio.wait_for(self._arrived.wait(), timeout_s)
        except TimeoutError:
            pass
        return self._newest

    def _subscribe(self) -> None:
        version = self._newest.version if self._newest is not None else 0
        self._registry.cast(SubscribeRoutes(self._subscriber, version))
        if self._served:
            self.served(self._served)

    def _take(self, message: RegistryReply) -> None:
        if isinstance(message, RoutesPublished):
            self._newest = message.snapshot
            self._arrived.set()
