"""One instance, from the fork of its first process until nothing of it is left.

A life in short: start everything, serve, stop. One that takes over from another instance starts everything without
touching a socket, waits for its turn, and then serves; one that is taken over from finishes its connections and ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from supervisor.action import Outcome
from supervisor.spec import ChangeRefused
from supervisor.supervisor import NotStarted, Supervisor
from symphony.api.background import BackgroundWork
from symphony.api.control import Control
from symphony.api.describe import describe_service, describe_totals
from symphony.api.examine import Examination
from symphony.api.generation import new_generation
from symphony.api.generations import Generations
from symphony.api.heritage import estate, take_sources
from symphony.api.listener_drain import ListenerDrains
from symphony.api.listening import BoundListener
from symphony.api.names import SUPERVISOR
from symphony.api.reconfigure import Reconfiguration
from symphony.api.service_manager import Service, ServiceManager
from symphony.api.successor import Successor
from symphony.api.takeover import Predecessor, TakeoverFailed
from symphony.api.tie import Tie
from symphony.api.tree import OBSERVERS, Blueprint, admin_group, compose_tree
from symphony.api.tree_dir import TreeDir
from symphony.api.upgrade import Upgrade, UpgradeFailed
from symphony.connection.tenure import Stage
from symphony.demo.files import Demo
from symphony.host.hardening import confine
from symphony.host.notify import notifier, watchdog_interval_s
from symphony.mailbox.address import RuntimeLock, mailbox_path
from symphony.mailbox.envelope import Refused
from symphony.messages.control import DrainBegun, LeftOver
from symphony.messages.succession import Left
from symphony.observe.books import Books
from symphony.observe.counters import ACTIVE
from symphony.observe.logs import reopen_log
from symphony.observe.reasons import Reason
from symphony.version import __version__

# A stopping acceptor takes what waits in its queues and then lets nobody in; one that hangs has this long to do so.
_REFUSE_AFTER_S = 0.25
_ADMIN_AGAIN_S = 0.25
# What a predecessor needs beyond its drain to end.
_AFTER_DRAIN_S = 10.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Setting:
    """All that is known of an instance before the first fork. `predecessor` is one to take over from, if any."""

    lock: RuntimeLock
    tree_dir: TreeDir
    examination: Examination
    blueprint: Blueprint
    listeners: tuple[BoundListener, ...]
    demo: Demo | None = None
    tie: Tie | None = None
    predecessor: Predecessor | None = None


class Running:
    """`serving`: this instance is the one that is found in its runtime directory."""

    def __init__(self, setting: Setting, announce: Callable[[str], None]) -> None:
        """`announce` shows text to the user. Needs a running event loop."""
        examination, blueprint = setting.examination, setting.blueprint
        self.serving = setting.predecessor is None
        self._setting = setting
        self._announce = announce
        self._books = books = Books()
        stage = Stage.HOLDING if self.serving else Stage.AWAITED
        first = new_generation(1, 0, setting.listeners, examination.workers, books, stage)
        drain_s = examination.drain_timeout_ms / 1000
        # Who takes over cannot have the address of the other's admin interface yet.
        root = compose_tree(blueprint, first, drain_s, observed=self.serving)
        self._supervisor = supervisor = Supervisor(
            root,
            mailbox_path(blueprint.runtime_dir, SUPERVISOR),
            on_ready=self._ready,
            confine=partial(confine, core_dumps=examination.core_dumps, account=examination.account),
        )
        self._generations = generations = Generations(supervisor, blueprint, books, first, drain_s)
        self._manager = manager = ServiceManager(notifier(), watchdog_interval_s(), self._look)
        self._control = control = Control(blueprint.runtime_dir)
        control.reconfiguration = Reconfiguration(blueprint, generations, manager, control.follow_soon)
        control.listeners = ListenerDrains(blueprint.runtime_dir, generations, books)
        control.describe = lambda: describe_service(
            generations, books, self._left_before(), stopping=self._stopping
        )
        control.totals = lambda: describe_totals(generations, books)
        control.upgrade = self._upgrade
        control.drain = self._drain
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._cut_before = 0
        self._failure = ""
        self._attempt: tuple[Upgrade, asyncio.Task[Successor]] | None = None
        self._successor: Successor | None = None
        self._background = BackgroundWork(log, "instance failed")

    async def run(self) -> Outcome:
        """Run until everything has ended. Raises OSError when a mailbox cannot be opened."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._control.reload_soon)
        self._loop.add_signal_handler(signal.SIGUSR1, reopen_log)
        self._loop.add_signal_handler(signal.SIGUSR2, self._control.upgrade_soon)
        if self._setting.tie is not None:
            self._setting.tie.on_end(self._stop)
        await self._control.start()
        try:
            outcome = await self._supervisor.run()
            await self._break_off()
            await self._part(outcome)
            self._control.drained(self._cut())
        finally:
            self._manager.close()
            await self._control.close()
        return outcome

    async def _break_off(self) -> None:
        """End an attempt to hand over: it must have its time to see to what the new process leaves behind."""
        if self._attempt is not None:
            _, task = self._attempt
            if not task.cancelling():
                task.cancel()
            await asyncio.wait([task])

    async def _part(self, outcome: Outcome) -> None:
        """Make an end with the predecessor, if there is one."""
        predecessor = self._setting.predecessor
        if predecessor is None:
            return
        if predecessor.gave_way:
            await self._outlive(predecessor)
        elif not await predecessor.give_up(self._failure or outcome.reason):
            await self._refuse_in_place_of(predecessor)

    def _ready(self) -> None:
        predecessor = self._setting.predecessor
        if predecessor is None:
            self._serve()
        else:
            self._background.begin(self._take_over(predecessor), "take over")

    def _serve(self) -> None:
        """Everything is in place."""
        setting = self._setting
        self._control.ready()
        self._manager.ready()
        log.info(
            "ready",
            version=__version__,
            pid=os.getpid(),
            listeners=[listener.address for listener in setting.listeners],
            routes=setting.examination.routes,
            acceptors=setting.examination.workers,
            runtime_dir=setting.tree_dir.runtime_dir,
        )
        if setting.demo is not None:
            self._announce(
                f"\nReady. Try, from another shell:\n\n    {setting.demo.curl_line}\n\nCtrl-C stops it.\n"
            )

        if setting.tie is not None:
            setting.tie.tell_ready()

    def _look(self) -> Service:
        wanted = self._generations.current.names
        serving = len(self._supervisor.serving().intersection(wanted))
        return Service(serving, len(wanted), self._connections_left())

    # Stopping

    def _drain(self, timeout_s: float | None) -> DrainBegun | Refused:
        """Stop everything because somebody has asked for it who wants to know what becomes of the connections."""
        if not self.serving:
            return Refused(f"process {os.getpid()} does not serve")
        if self._stopping:
            return Refused(f"process {os.getpid()} stops already")
        if timeout_s is not None:
            self._generations.allow_to_drain(timeout_s)
        grace_s = self._generations.drain_timeout_s
        self._cut_before = self._cut()
        begun = DrainBegun("", self._connections_left(), grace_s)
        self._stop_within(grace_s)
        return begun

    def _connections_left(self) -> int:
        return sum(each.connections for each in self._left())

    def _cut(self) -> int:
        """How many connections have been ended for want of time to end by themselves, or with their acceptor."""
        totals = self._books.totals()
        cut = totals.errors().get(Reason.DRAIN_TIMEOUT.value, 0) - self._cut_before
        return cut + (totals.values[ACTIVE] if self._stopping else 0)

    def _stop(self) -> None:
        """Stop everything; the second time, at once."""
        self._stop_within(self._generations.drain_timeout_s)

    def _stop_within(self, grace_s: float) -> None:
        """While it drains, new connections are refused and the ports are free.

        They would otherwise be taken by the kernel, wait for an acceptor that never comes, and be reset at the end.
        The acceptors see to it themselves when they stop; after so long, this process does so for those that could not.
        """
        self._manager.stopping(grace_s)
        self._supervisor.request_stop(grace_s)
        predecessor = self._setting.predecessor
        if predecessor is not None and predecessor.gave_way:
            self._background.begin(predecessor.hasten(grace_s), "hasten the predecessor")
        if self._stopping:
            return
        self._stopping = True
        if predecessor is None or predecessor.gave_way:
            # Else the sockets are the other one's, who goes on.
            self._loop.call_later(_REFUSE_AFTER_S, self._generations.refuse)
        if self._attempt is not None and not self._attempt[0].committed:
            self._attempt[1].cancel()

    # Taking over

    async def _take_over(self, predecessor: Predecessor) -> None:
        setting = self._setting
        try:
            await predecessor.await_turn()
            setting.tree_dir.step_forward()
            setting.lock.claim()
            self._generations.draining.update(predecessor.draining)
            await take_sources(predecessor.memory, setting.blueprint.sources)
            await self._generations.share()
            await predecessor.take([listener.address for listener in setting.listeners])
        except (TakeoverFailed, OSError) as error:
            self._failure = str(error)
            log.error("not taken over", predecessor=predecessor.pid, reason=self._failure)
            self._supervisor.request_stop(self._generations.drain_timeout_s)
            if isinstance(error, TakeoverFailed):
                # Not only at the end, before which the acceptors finish what they have taken.
                await self._refuse_in_place_of(predecessor)
            return
        self._generations.take_over()
        self.serving = True
        log.info("taken over", predecessor=predecessor.pid)
        self._serve()
        self._background.begin(predecessor.watch(self._stop_within), "watch the predecessor")
        await self._observe()

    async def _refuse_in_place_of(self, predecessor: Predecessor) -> None:
        """Free the ports if the predecessor has died.

        It may have let go of the sockets: its acceptors hold them open, and clients would wait there for nobody.
        """
        if await predecessor.is_dead():
            self._generations.refuse()

    async def _observe(self) -> None:
        """Start what could not be started beside the predecessor's, whose address it needs."""
        blueprint = self._setting.blueprint
        while blueprint.admin is not None and not self._stopping:
            try:
                # It is to stop after all acceptors.
                first = (*self._generations.older, self._generations.current)[0].group
                await self._supervisor.add(admin_group(blueprint, blueprint.admin), before=first)
            except NotStarted:
                await asyncio.sleep(_ADMIN_AGAIN_S)
            except ChangeRefused:
                return
            else:
                return

    def _left_before(self) -> tuple[LeftOver, ...]:
        predecessor = self._setting.predecessor
        left = predecessor.left if predecessor is not None else ()
        return tuple(LeftOver(each.pid, each.connections) for each in left)

    async def _outlive(self, predecessor: Predecessor) -> None:
        """Wait for the predecessor, so that nothing is left of either when this process ends."""
        try:
            await asyncio.wait_for(
                predecessor.gone.wait(), self._generations.drain_timeout_s + _AFTER_DRAIN_S
            )
        except TimeoutError:
            log.error("predecessor is still there", predecessor=predecessor.pid)

    # Handing over

    async def _upgrade(self) -> int:
        """Hand over to a new process; return its pid. Raises :class:`UpgradeFailed`."""
        setting = self._setting
        if setting.demo is not None:
            raise UpgradeFailed("a demonstration is not upgraded: stop it and start another one")
        if setting.tie is not None:
            raise UpgradeFailed("this instance is a part of the program that started it: start that one anew")
        if self._stopping:
            raise UpgradeFailed("this instance stops")
        blueprint = setting.blueprint
        memory = estate(blueprint.affinity, blueprint.sources)
        attempt = Upgrade(
            setting.lock, setting.tree_dir, self._generations, blueprint.passed, memory, self._manager
        )
        task = self._loop.create_task(attempt.run(), name="upgrade")
        self._attempt = attempt, task
        try:
            successor = await task
        except asyncio.CancelledError:
            if self._stopping:
                raise UpgradeFailed("this instance was told to stop") from None
            raise
        finally:
            self._attempt = None
        self.serving = False
        self._successor = successor
        self._background.begin(successor.follow(self._left, self._stop_within), "follow the successor")
        self._background.begin(self._see_out(successor), "see out")
        return successor.pid

    async def _see_out(self, successor: Successor) -> None:
        """Finish the connections that are left, and then end."""
        if self._stopping:
            # It was told while there was no way back, and meant the whole instance.
            await successor.hasten(self._generations.drain_timeout_s)
        try:
            await self._supervisor.retire(OBSERVERS)
        except ChangeRefused:
            pass  # there are none
        await self._generations.see_out(successor.addresses)
        await self._manager.settle()
        if self._setting.predecessor is not None:
            await self._outlive(self._setting.predecessor)
        self._supervisor.request_stop(self._generations.drain_timeout_s)

    def _left(self) -> tuple[Left, ...]:
        before = self._setting.predecessor.left if self._setting.predecessor is not None else ()
        return (Left(os.getpid(), self._books.totals().values[ACTIVE]), *before)
