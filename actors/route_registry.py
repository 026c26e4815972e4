"""The route registry: owns the configuration, and publishes whole snapshots of it.

Subscribers get the present snapshot at once and every later one as it comes. A subscriber that is gone subscribes
again by itself when it is back; nothing is kept for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Collection, Mapping
from dataclasses import dataclass

import structlog

from actors.runtime import Actor, Birth, CannotRun, run_actor
from symphony.config.loaded import Loaded
from symphony.config.override import NoSuchUpstream
from symphony.config.problem import ConfigError, Severity
from symphony.config.snapshot import ListenerEntry
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.envelope import Refused
from symphony.mailbox.server import MailboxServer, Sender
from symphony.messages.registry import (
    AppliedBy,
    AwaitApplied,
    CertificatesDescribed,
    ConfigDescription,
    DescribeCertificates,
    DescribeConfig,
    DescribeLists,
    KeepListeners,
    ListenerLists,
    ListenersKept,
    ListsDescription,
    RegistryReply,
    RegistryRequest,
    Reload,
    ReloadDone,
    RoutesPublished,
    SetUpstream,
    SnapshotApplied,
    Subscribed,
    SubscribeRoutes,
    SubscribeTargets,
    SubscribeTopology,
    TargetsPublished,
    TopologyPublished,
    UpstreamSet,
)
from symphony.routing.certificates import served_certificates
from symphony.routing.snapshot_keeper import SnapshotKeeper, first_error, sampled_threads
from symphony.routing.snapshot_store import SnapshotStore
from symphony.watch.watch import LOOK_EVERY_S, FileWatch

NAME = "route-registry"
# Unread bytes above which a subscriber is dropped: more than two snapshots of the largest frame a client takes.
_HIGH_WATER = 160 << 20
_LONGEST_WAIT_S = 60.0

# What acceptors, the sampler and the admin actor need, and nothing that changes anything.
_FROM_WORKERS = (SubscribeRoutes, SubscribeTargets, SnapshotApplied, DescribeConfig, DescribeCertificates)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """`overrides` are top-level keys that stand above those of the file at `config_file`.

    `heir_of` is the pid of the supervisor whose tree's place is taken: what an operator said there holds here, too.
    `look_every_s` is how often the watched files are looked at where the kernel does not tell of their changes.
    """

    runtime_dir: str
    config_file: str
    overrides: Mapping[str, object] | None = None
    look_every_s: float = LOOK_EVERY_S
    heir_of: int = 0


class RouteRegistry(Actor):
    """Answers all of :data:`RegistryRequest`; pushes RoutesPublished, TargetsPublished and TopologyPublished."""

    def __init__(self, settings: RegistrySettings, name: str, incarnation: int) -> None:
        self._first_life = incarnation == 1
        store = SnapshotStore(settings.runtime_dir)
        self._keeper = SnapshotKeeper(
            settings.config_file, store, os.getppid(), settings.overrides, settings.heir_of
        )
        self._targets: tuple[tuple[int, int], ...] = ()
        self._route_subscribers: dict[Sender, str] = {}
        self._target_subscribers: dict[Sender, str] = {}
        self._topology_subscribers: dict[Sender, str] = {}
        self._applied: dict[str, int] = {}
        self._applied_news = asyncio.Event()
        self._reading = asyncio.Lock()
        self._watch = FileWatch(look_every_s=settings.look_every_s)
        self._watches = True
        self._watching: asyncio.Task[None] | None = None
        path = mailbox_path(settings.runtime_dir, name)
        self.mailbox = MailboxServer(
            path, RegistryRequest, self._answer, high_water=_HIGH_WATER, from_workers=_FROM_WORKERS
        )

    async def start(self) -> None:
        """Read the configuration, or go on from the stored one."""
        keeper = self._keeper
        loaded = await asyncio.to_thread(keeper.read)
        try:
            keeper.begin(loaded, self._first_life)
        except ConfigError as error:
            raise CannotRun(first_error(error)) from None
        self._follow(loaded)
        self._watching = asyncio.get_running_loop().create_task(self._reload_on_change(), name="watch files")
        self._targets = sampled_threads(keeper.current)
        self._log_problems()
        log.info("configuration served", version=keeper.current.version, routes=len(keeper.current.routes))

    async def stop(self, grace: float) -> None:
        """Watch the files no more."""
        if self._watching is not None:
            self._watching.cancel()
        self._watch.close()

    def _follow(self, loaded: Loaded) -> None:
        """Watch what was read, unless the file says not to; one that says nothing readable changes nothing about it."""
        if loaded.watch is not None:
            self._watches = loaded.watch
        self._watch.follow(loaded.seen if self._watches else ())

    async def _reload_on_change(self) -> None:
        while True:
            await self._watch.changed()
            log.info("watched files changed")
            try:
                await self._reload()
            except Exception:
                # The task must not end: nobody would notice any later change.
                log.exception("reload failed")

    def _answer(
        self, message: RegistryRequest, sender: Sender
    ) -> RegistryReply | Awaitable[RegistryReply] | None:
        match message:
            case SubscribeRoutes(name, version):
                return self._subscribe_routes(sender, name, version)
            case SubscribeTargets(name):
                self._enter(self._target_subscribers, sender, name)
                self._later(sender, TargetsPublished(self._targets))
                return Subscribed(self._keeper.current.version)
            case SubscribeTopology():
                self._enter(self._topology_subscribers, sender, "")
                if self._keeper.topology is not None:
                    self._later(sender, TopologyPublished(self._keeper.topology))
                return Subscribed(self._keeper.current.version)
            case KeepListeners(ids):
                return self._keep_listeners(ids)
            case SnapshotApplied(name, version):
                if self._route_subscribers.get(sender) == name:
                    self._note_applied(name, version)
                return None
            case AwaitApplied():
                return self._await_applied(message)
            case Reload():
                return self._reload()
            case SetUpstream():
                return self._set_upstream(message)
            case DescribeConfig():
                return self._describe()
            case DescribeCertificates():
                return self._describe_certificates()
            case DescribeLists():
                return ListsDescription(tuple(map(self._lists_of, self._keeper.current.listeners)))

    def _lists_of(self, listener: ListenerEntry) -> ListenerLists:
        entry, networks = listener.protection, self._keeper.current.networks
        return ListenerLists(
            listener.id,
            networks.get(entry.allowlist, b""),
            networks.get(entry.blocklist, b""),
            entry.ja3_blocklist,
            entry.ja4_blocklist,
            entry.ipv6_prefix,
            entry.asn_blocklist,
        )

    def _subscribe_routes(self, sender: Sender, name: str, version: int) -> Subscribed:
        self._enter(self._route_subscribers, sender, name)
        if version:
            self._note_applied(name, version)
        if self._keeper.outgrow(version):
            log.warning("subscriber had a later version", subscriber=name, version=version)
            self._publish(but=sender)
        if version != self._keeper.current.version:
            self._later(sender, RoutesPublished(self._keeper.current))
        return Subscribed(self._keeper.current.version)

    def _note_applied(self, name: str, version: int) -> None:
        self._applied[name] = version
        self._applied_news.set()  # wakes all who wait
        self._applied_news.clear()

    async def _await_applied(self, message: AwaitApplied) -> AppliedBy:
        def behind() -> tuple[str, ...]:
            return tuple(name for name in message.acceptors if self._applied.get(name, 0) < message.version)

        try:
            async with asyncio.timeout(min(max(0.0, message.within_s), _LONGEST_WAIT_S)):
                while behind():
                    await self._applied_news.wait()
        except TimeoutError:
            pass
        return AppliedBy(behind())

    def _enter(self, subscribers: dict[Sender, str], sender: Sender, name: str) -> None:
        if sender not in subscribers:
            sender.on_close(lambda: self._leave(subscribers, sender))
        subscribers[sender] = name

    def _leave(self, subscribers: dict[Sender, str], sender: Sender) -> None:
        name = subscribers.pop(sender)
        # Its successor may have subscribed before the end of its own connection was seen.
        if subscribers is self._route_subscribers and name not in subscribers.values():
            self._applied.pop(name, None)

    @staticmethod
    def _later(sender: Sender, message: RoutesPublished | TargetsPublished | TopologyPublished) -> None:
        """Push after the reply to the subscription."""
        asyncio.get_running_loop().call_soon(sender.push, message)

    async def _reload(self) -> ReloadDone:
        async with self._reading:
            loaded = await asyncio.to_thread(self._keeper.read)
            self._follow(loaded)
            done = self._keeper.reload(loaded)
        if done.changed:
            self._publish()
        self._log_problems()
        log.info(
            "configuration reloaded",
            version=self._keeper.current.version,
            changed=done.changed,
            kept=list(done.kept),
            left_out=list(done.left_out),
        )
        if done.topology is not None:
            for sender in tuple(self._topology_subscribers):
                sender.push(TopologyPublished(done.topology))
        return ReloadDone(self._keeper.current.version, done.changed, done.kept, done.problems, done.topology)

    async def _set_upstream(self, message: SetUpstream) -> UpstreamSet | Refused:
        async with self._reading:
            before = self._keeper.current.version
            try:
                routes = self._keeper.override(message.route, message.upstream, message.mode)
            except NoSuchUpstream as error:
                return Refused(str(error))
            version = self._keeper.current.version
            if version != before:
                self._publish()
        log.info("upstream_set", upstream=message.upstream, mode=message.mode, routes=list(routes))
        return UpstreamSet(version, routes)

    async def _keep_listeners(self, ids: Collection[str]) -> ListenersKept:
        async with self._reading:
            if self._keeper.keep_listeners(ids):
                self._publish()
        return ListenersKept(self._keeper.current.version)

    def _publish(self, but: Sender | None = None) -> None:
        current = self._keeper.current
        published = RoutesPublished(current)
        for sender in tuple(self._route_subscribers):
            if sender is not but:
                sender.push(published)
        targets = sampled_threads(current)
        if targets != self._targets:
            self._targets = targets
            for sender in tuple(self._target_subscribers):
                sender.push(TargetsPublished(targets))

    def _describe(self) -> ConfigDescription:
        keeper = self._keeper
        return ConfigDescription(
            keeper.current.version,
            keeper.file,
            len(keeper.current.routes),
            keeper.current.listeners,
            keeper.loaded_at,
            dict(self._applied),
            keeper.problems,
        )

    async def _describe_certificates(self) -> CertificatesDescribed:
        # Ten thousand of them take a second, in which others must be answered.
        return CertificatesDescribed(await asyncio.to_thread(served_certificates, self._keeper.current))

    def _log_problems(self) -> None:
        for problem in self._keeper.problems:
            write = log.warning if problem.severity is Severity.WARNING else log.error
            write("configuration problem", file=self._keeper.file, place=problem.place, problem=problem.text)


def run_route_registry(birth: Birth, settings: RegistrySettings) -> None:
    """Be the route registry's process."""
    run_actor(birth, lambda: RouteRegistry(settings, birth.name, birth.incarnation))
