"""Carries out what concerns the proxy as a whole, in the process that supervises the others.

This process holds no key and no route: the registry reads the configuration, and tells it what of that concerns
processes and ports, after every reading, whatever made the registry read. So there is one way for a change of listeners
or acceptors to come into force.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine

from msgspec import Struct
from structlog import get_logger

from supervisor.spec import ChangeRefused
from supervisor.supervisor import NotStarted
from symphony.api.describe import describe_service
from symphony.api.generations import Generations, TooManyDraining
from symphony.api.names import CONTROL, REGISTRY
from symphony.api.service_manager import ServiceManager
from symphony.api.tree import Blueprint
from symphony.config.problem import ConfigError, Problem
from symphony.config.topology import Topology
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxClient, MailboxError
from symphony.mailbox.envelope import Refused
from symphony.mailbox.server import MailboxServer, Sender
from symphony.messages.control import (
    ControlReply,
    ControlRequest,
    DescribeService,
    ReloadService,
    ServiceReloaded,
)
from symphony.messages.registry import (
    KeepListeners,
    ListenersKept,
    RegistryReply,
    Reload,
    ReloadDone,
    SubscribeTopology,
    TopologyPublished,
)
from symphony.observe.books import Books

_REGISTRY_READS_WITHIN_S = 60.0
_REGISTRY_ANSWERS_WITHIN_S = 5.0

log = get_logger("control")


class _Applied(Struct, frozen=True):
    """What came of a wish for other listeners or acceptors."""

    acceptors: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    failure: str = ""


class Control:
    """Answers all of :data:`ControlRequest`; needs a running event loop."""

    def __init__(
        self, blueprint: Blueprint, generations: Generations, books: Books, manager: ServiceManager
    ) -> None:
        self._file = blueprint.config_file
        self._generations = generations
        self._books = books
        self._manager = manager
        self._ready = asyncio.Event()
        self._changing = asyncio.Lock()
        self._told: Topology | None = None
        self._unmet: Topology | None = None
        self._reload_wanted = False
        self._tasks: set[asyncio.Task[None]] = set()
        path = mailbox_path(blueprint.runtime_dir, CONTROL)
        self._mailbox = MailboxServer(path, ControlRequest, self._answer, from_workers=(DescribeService,))
        registry = mailbox_path(blueprint.runtime_dir, REGISTRY)
        self._registry = MailboxClient(registry, RegistryReply, name=REGISTRY)
        self._registry.on_up = self._subscribe
        self._registry.on_push = self._take_topology
        generations.on_change = self._acceptors_changed

    async def start(self) -> None:
        """Open the mailbox. Raises OSError."""
        await self._mailbox.start()
        self._registry.start()

    def ready(self) -> None:
        """All processes serve: changes may begin."""
        self._ready.set()

    async def close(self) -> None:
        """Close the mailbox; what is being changed is left as it is."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._registry.close()
        await self._mailbox.close()

    def reload_soon(self) -> None:
        """Reload once. One that is under way is followed by another: it may have read the file too early."""
        if not self._reload_wanted:
            self._reload_wanted = True
            self._begin(self._reload_alone(), "reload")

    async def _reload_alone(self) -> None:
        async with self._changing:
            self._reload_wanted = False
            await self._reload()

    def _answer(self, message: ControlRequest, sender: Sender) -> ControlReply | Awaitable[ControlReply]:
        match message:
            case DescribeService():
                return describe_service(self._generations, self._books)
            case ReloadService():
                return self._reload_for_sender()

    async def _reload_for_sender(self) -> ControlReply:
        async with self._changing:
            return await self._reload()

    # Reloading

    async def _reload(self) -> ServiceReloaded | Refused:
        """Have the registry read the file, and do what is to be done here. One at a time."""
        await self._ready.wait()
        self._manager.reloading()
        try:
            return await self._read_and_apply()
        finally:
            self._manager.reloaded()

    async def _read_and_apply(self) -> ServiceReloaded | Refused:
        try:
            done = await self._registry.call(Reload(), _REGISTRY_READS_WITHIN_S)
        except MailboxError as error:
            log.error("reload failed", reason=str(error))
            return Refused(f"the route registry did not reload: {error}")
        assert isinstance(done, ReloadDone), f"a reload is answered by {type(done).__name__}"
        applied, version = _Applied(), done.version
        if done.topology is not None:
            applied = await self._apply(done.topology)
            if self._told == done.topology:
                self._told = None  # the registry has told everybody who wants to hear of it, too
            version = await self._keep_listeners() or version
        # The registry has logged its findings.
        log.info(
            "reloaded", file=self._file, version=version, changed=done.changed or bool(applied.acceptors)
        )
        return ServiceReloaded(
            self._file,
            version,
            done.changed or bool(applied.acceptors),
            done.kept,
            (*done.problems, *applied.problems),
            applied.acceptors,
            applied.failure,
        )

    def _subscribe(self) -> None:
        self._registry.cast(SubscribeTopology())

    def _take_topology(self, message: RegistryReply) -> None:
        if isinstance(message, TopologyPublished):
            self._told = message.topology
            self._begin(self._follow(), "follow the configuration")

    def _acceptors_changed(self) -> None:
        self._begin(self._follow(), "follow the configuration")

    async def _follow(self) -> None:
        """Do what the registry said last, or what could not be done before."""
        async with self._changing:
            await self._ready.wait()
            told, self._told = self._told, None
            wanted = told or (None if self._generations.crowded else self._unmet)
            if wanted is not None:
                await self._apply(wanted)
            await self._keep_listeners()

    async def _apply(self, wanted: Topology) -> _Applied:
        self._unmet = None
        try:
            changed = await self._generations.follow(self._file, wanted)
        except ConfigError as error:
            for problem in error.problems:
                log.error("listeners not changed", place=problem.place, problem=problem.text)
            return _Applied(problems=tuple(error.problems))
        except TooManyDraining as error:
            self._unmet = wanted
            log.warning("acceptors not replaced yet", reason=str(error))
            return _Applied(failure=str(error))
        except (NotStarted, ChangeRefused) as error:
            log.error("acceptors not replaced", reason=str(error))
            return _Applied(failure=f"the new acceptors did not start: {error}; the present ones serve on")
        return _Applied(acceptors=self._generations.current.names if changed else ())

    async def _keep_listeners(self) -> int:
        """Let the registry forget listeners that nobody serves any more; return what it serves then, 0 if unknown."""
        request = KeepListeners(self._generations.listener_ids())
        try:
            reply = await self._registry.call(request, _REGISTRY_ANSWERS_WITHIN_S)
        except MailboxError:
            return 0  # it is told again when it is back
        return reply.version if isinstance(reply, ListenersKept) else 0

    def _begin(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("control failed", during=task.get_name(), exc_info=error)
