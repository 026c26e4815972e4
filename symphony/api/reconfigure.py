"""Brings a changed configuration into force: the registry reads it, and here is done what concerns processes and ports.

The registry tells what it has read after every reading, whatever made it read. So there is one way for a change of
listeners or acceptors to come into force.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct
from structlog import get_logger

from supervisor.spec import ChangeRefused
from supervisor.supervisor import NotStarted
from symphony.api.applied import wait_applied
from symphony.api.generations import Generations, TooManyDraining
from symphony.api.names import REGISTRY
from symphony.api.service_manager import ServiceManager
from symphony.api.tree import Blueprint
from symphony.config.problem import ConfigError, Problem
from symphony.config.topology import Topology
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxClient, MailboxDown, MailboxError
from symphony.mailbox.envelope import Refused
from symphony.messages.control import ServiceReloaded
from symphony.messages.registry import (
    KeepListeners,
    ListenersKept,
    RegistryReply,
    Reload,
    ReloadDone,
    SubscribeTopology,
    TopologyPublished,
)

_REGISTRY_BACK_WITHIN_S = 5.0
_REGISTRY_READS_WITHIN_S = 60.0
_REGISTRY_ANSWERS_WITHIN_S = 5.0
APPLIED_WITHIN_S = 5.0
"""How long a reload waits for acceptors that do not take it up, because they hang or were killed."""

log = get_logger("control")


class _Applied(Struct, frozen=True):
    """What came of a wish for other listeners or acceptors."""

    acceptors: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    failure: str = ""


class Reconfiguration:
    """`on_news` is called when :meth:`follow` has something to do. Neither that nor :meth:`reload` may overlap."""

    def __init__(
        self,
        blueprint: Blueprint,
        generations: Generations,
        manager: ServiceManager,
        on_news: Callable[[], None],
    ) -> None:
        self._manager = manager
        self._file = blueprint.config_file
        self._runtime_dir = blueprint.runtime_dir
        self._generations = generations
        self._on_news = on_news
        self._told: Topology | None = None
        self._unmet: Topology | None = None
        registry = mailbox_path(self._runtime_dir, REGISTRY)
        self._registry = MailboxClient(registry, RegistryReply, name=REGISTRY)
        self._registry.on_up = self._subscribe
        self._registry.on_down = self._miss
        self._reachable = asyncio.Event()
        self._registry.on_push = self._take_topology
        generations.on_change = on_news

    def start(self) -> None:
        """Listen to the registry from now on."""
        self._registry.start()

    async def close(self) -> None:
        """Listen no more."""
        await self._registry.close()

    async def reload(self) -> ServiceReloaded | Refused:
        """Have the registry read the file, and do what is to be done here."""
        self._manager.reloading()
        try:
            return await self._reload()
        finally:
            self._manager.reloaded()

    async def _reload(self) -> ServiceReloaded | Refused:
        try:
            done = await self._ask_to_reload()
        except MailboxError as error:
            log.error("reload failed", reason=str(error))
            return Refused(f"the route registry did not reload: {error}")
        applied, version = _Applied(), done.version
        if done.topology is not None:
            applied = await self._apply(done.topology)
            if self._told == done.topology:
                self._told = None  # the registry has told everybody who wants to hear of it, too
            version = await self._keep_listeners() or version
        changed = done.changed or bool(applied.acceptors)
        # Only now may those who wait for the reload try what has changed.
        names = self._generations.current.names
        behind = await wait_applied(self._runtime_dir, names, version, APPLIED_WITHIN_S)
        # The registry has logged its findings.
        log.info("reloaded", file=self._file, version=version, changed=changed, behind=list(behind))
        problems = (*done.problems, *applied.problems)
        return ServiceReloaded(
            self._file, version, changed, done.kept, problems, applied.acceptors, applied.failure, behind
        )

    async def _ask_to_reload(self) -> ReloadDone:
        """Ask the registry; one that dies is back before long, and is asked once more. Raises MailboxError."""
        try:
            return await self._asked_to_reload()
        except MailboxDown:
            return await self._asked_to_reload()

    async def _asked_to_reload(self) -> ReloadDone:
        try:
            await asyncio.wait_for(self._reachable.wait(), _REGISTRY_BACK_WITHIN_S)
        except TimeoutError:
            pass  # which the call says
        done = await self._registry.call(Reload(), _REGISTRY_READS_WITHIN_S)
        assert isinstance(done, ReloadDone), f"a reload is answered by {type(done).__name__}"
        return done

    async def follow(self) -> None:
        """Do what the registry said last, or what could not be done before."""
        told, self._told = self._told, None
        wanted = told or (None if self._generations.crowded else self._unmet)
        if wanted is not None:
            await self._apply(wanted)
        await self._keep_listeners()

    def _subscribe(self) -> None:
        self._reachable.set()
        self._registry.cast(SubscribeTopology())

    def _miss(self) -> None:
        self._reachable.clear()

    def _take_topology(self, message: RegistryReply) -> None:
        if isinstance(message, TopologyPublished):
            self._told = message.topology
            self._on_news()

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
