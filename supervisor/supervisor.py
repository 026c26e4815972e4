"""The supervisor: carries out what the tree decides, and tells the tree what happens.

It knows children, not what they are for. It is one thread and one asyncio loop, and forks from within it: the running
loop is the parent's alone (asyncio remembers the process it runs in), and without threads no lock is held by anybody.
No child watcher and no SIGCHLD are involved: a child's end is told by its pidfd.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import time
from collections.abc import Callable
from functools import partial

from structlog import get_logger

from supervisor.action import (
    AbandonProcess,
    Action,
    AskToStop,
    Exit,
    Finish,
    Joined,
    KillProcess,
    Outcome,
    Removed,
    Report,
    StartProcess,
    TellSibling,
)
from supervisor.messages import (
    ChildDescription,
    DescribeTree,
    Stopping,
    StopTree,
    TreeDescription,
    TreeReply,
    TreeRequest,
)
from supervisor.node import State
from supervisor.patience import KILL_PATIENCE_S
from supervisor.process import ChildProcess, kill_all, spawn
from supervisor.spec import ChildSpec, Confine, GroupSpec
from supervisor.tree import Tree
from symphony.mailbox.envelope import Refused
from symphony.mailbox.framing import FrameError
from symphony.mailbox.lifeline import (
    ChildBeat,
    ChildFailed,
    ChildMessage,
    ChildReady,
    SiblingDown,
    SiblingUp,
    StopChild,
    encode_lifeline,
)
from symphony.mailbox.server import MailboxServer, Sender

_REAP_AGAIN_S = 0.05
_REAP_ATTEMPTS = 20

log = get_logger("supervisor")


class NotStarted(Exception):
    """What was added did not become ready, and is gone again; the text says why."""


def _leave_everything(kind: str) -> None:
    """Give up nothing."""


class Supervisor:
    """Runs one tree, which can be changed while it runs (:meth:`add`, :meth:`retire`).

    `on_ready` is called once, when every child has become ready for the first time. `confine(kind)` is what every
    child is to call at its beginning (:class:`supervisor.spec.Birth`).
    """

    def __init__(
        self,
        root: GroupSpec,
        mailbox_path: str,
        *,
        on_ready: Callable[[], None] | None = None,
        confine: Confine = _leave_everything,
    ) -> None:
        self._tree = Tree(root)
        self._on_ready = on_ready
        self._confine = confine
        self._started_at = 0.0
        self._children: dict[str, ChildProcess] = {}
        self._abandoned: set[ChildProcess] = set()
        self._joining: dict[str, asyncio.Future[None]] = {}
        self._leaving: dict[str, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._finished: asyncio.Future[Outcome]
        self._mailbox = MailboxServer(mailbox_path, TreeRequest, self._answer, from_workers=(DescribeTree,))

    async def run(self) -> Outcome:
        """Start everything, and return when nothing runs any more. Raises OSError when the mailbox cannot be opened."""
        self._loop = asyncio.get_running_loop()
        self._finished = self._loop.create_future()
        self._started_at = time.time()
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            # Inherited from whoever started this process; the kernel would then throw away how children ended.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        await self._mailbox.start()
        # Frozen, the modules' objects are not walked by any child's collector, and so stay shared with it.
        gc.collect()
        gc.freeze()
        try:
            self._tree.begin(self._now())
            self._act()
            return await self._finished
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for child in self._abandoned:
                self._loop.remove_reader(child.pidfd)
            kill_all(list(self._abandoned), 0.0)
            kill_all([self._forget(name) for name in tuple(self._children)], KILL_PATIENCE_S)
            for name in {*self._joining, *self._leaving}:
                self._settle_removed(name, "the tree has ended")
            await self._mailbox.close()

    def request_stop(self, grace_s: float | None = None) -> None:
        """Stop the tree within about `grace_s` seconds (None: as the specs say); called a second time: at once."""
        self._tree.stop(grace_s, self._now())
        self._act()

    def serving(self) -> frozenset[str]:
        """The names of the children that are ready and not about to end."""
        leaves = self._tree.leaves()
        return frozenset(leaf.name for leaf in leaves if leaf.state is State.RUNNING and not leaf.killed)

    async def add(self, spec: ChildSpec | GroupSpec, parent: str = "", before: str = "") -> None:
        """Start `spec` as the last child of the group `parent` (the root if empty), or before the child `before`.

        Returns when it is ready.

        Raises :class:`NotStarted` when it does not become so; nothing is then left of it. Raises
        :class:`ChangeRefused` when a name in it is taken, or the group does not run. If the caller is cancelled it
        is started all the same.
        """
        joined = self._loop.create_future()
        self._tree.add(spec, self._now(), parent, before)
        self._joining[spec.name] = joined
        self._act()
        await asyncio.shield(joined)

    async def retire(self, name: str) -> None:
        """Stop the child or group `name`, in the time that its spec gives it; return when it is gone and forgotten.

        Raises :class:`ChangeRefused` when there is none, or when everything has ended. If the caller is cancelled it
        goes all the same.
        """
        self._tree.retire(name, self._now())
        left = self._leaving.setdefault(name, self._loop.create_future())
        self._act()
        await asyncio.shield(left)

    def allow_to_stop(self, name: str, shutdown_s: float) -> None:
        """Give `name`, or every child in it, `shutdown_s` seconds to stop in, from the next time it is asked to.

        Raises :class:`ChangeRefused` when there is none.
        """
        self._tree.allow_to_stop(name, shutdown_s, self._now())

    def _now(self) -> float:
        return time.monotonic()

    # Actions

    def _act(self) -> None:
        """Carry out actions until the tree wants nothing more, then set the timer for its next deadline."""
        while actions := self._tree.actions():
            for action in actions:
                self._carry_out(action)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._tree.next_deadline(self._now())
        if due is not None and not self._finished.done():
            self._timer = self._loop.call_later(max(0.0, due - self._now()), self._tick)
        if self._tree.ready and self._on_ready is not None:
            on_ready, self._on_ready = self._on_ready, None
            on_ready()

    def _tick(self) -> None:
        self._timer = None
        # What a child has sent is read before it is judged: this process may have been the one that slept.
        for name in tuple(self._children):
            self._read_lifeline(name)
        self._tree.tick(self._now())
        self._act()

    def _carry_out(self, action: Action) -> None:
        match action:
            case StartProcess(name, incarnation):
                self._start(name, incarnation)
            case AskToStop(name, grace_s):
                self._send(name, StopChild(grace_s))
            case KillProcess(name):
                if name in self._children:
                    self._children[name].kill()
            case AbandonProcess(name):
                self._abandon(name)
            case TellSibling(name, sibling, up, reason):
                self._send(name, SiblingUp(sibling) if up else SiblingDown(sibling, reason))
            case Joined(name):
                if (joined := self._joining.pop(name, None)) is not None:
                    joined.set_result(None)
            case Removed(name, reason):
                self._settle_removed(name, reason)
            case Report(event, level, fields):
                getattr(log, level)(event, **fields)
            case Finish(outcome):
                if not self._finished.done():
                    self._finished.set_result(outcome)

    def _settle_removed(self, name: str, reason: str) -> None:
        if (joined := self._joining.pop(name, None)) is not None:
            joined.set_exception(NotStarted(reason))
            joined.exception()  # its caller may have been cancelled, and nobody left to be told
        if (left := self._leaving.pop(name, None)) is not None:
            left.set_result(None)

    def _start(self, name: str, incarnation: int) -> None:
        try:
            child = spawn(self._tree.leaf(name).spec, incarnation, self._confine)
        except OSError as error:
            self._start_failed(name, error)
            return
        try:
            self._loop.add_reader(child.lifeline.fileno(), partial(self._lifeline_readable, name))
            self._loop.add_reader(child.pidfd, partial(self._died, name))
        except OSError as error:
            self._loop.remove_reader(child.lifeline.fileno())
            kill_all([child], KILL_PATIENCE_S)
            self._start_failed(name, error)
            return
        self._children[name] = child
        log.info("child_started", child=name, pid=child.pid, incarnation=incarnation)

    def _send(self, name: str, message: StopChild | SiblingDown | SiblingUp) -> None:
        child = self._children.get(name)
        if child is not None and not child.send(encode_lifeline(message)):
            log.warning("child_not_told", child=name, message=type(message).__name__)

    def _start_failed(self, name: str, error: OSError) -> None:
        now = self._now()
        self._tree.child_said_why(name, f"cannot be started: {error}", now)
        self._tree.child_exited(name, Exit(), now)

    def _forget(self, name: str) -> ChildProcess:
        child = self._children.pop(name)
        self._loop.remove_reader(child.pidfd)
        self._loop.remove_reader(child.lifeline.fileno())
        return child

    def _abandon(self, name: str) -> None:
        """Have no more to do with the child, but reap it should it ever end."""
        child = self._forget(name)
        self._abandoned.add(child)
        self._loop.add_reader(child.pidfd, self._abandoned_died, child)

    def _abandoned_died(self, child: ChildProcess) -> None:
        self._loop.remove_reader(child.pidfd)
        self._abandoned.discard(child)
        child.release()

    # Events

    def _lifeline_readable(self, name: str) -> None:
        self._read_lifeline(name)
        self._act()

    def _read_lifeline(self, name: str) -> None:
        child = self._children[name]
        try:
            for message in child.receive():
                self._hear(name, child, message)
        except EOFError:
            # The child's death, which follows, is told by its pidfd; if it lives on it is silent from now on.
            self._loop.remove_reader(child.lifeline.fileno())
        except (FrameError, ValueError) as error:
            self._loop.remove_reader(child.lifeline.fileno())
            self._tree.child_broken(name, f"cannot be understood: {error}", self._now())

    def _hear(self, name: str, child: ChildProcess, message: ChildMessage) -> None:
        now = self._now()
        match message:
            case ChildReady():
                self._tree.child_ready(name, now)
            case ChildBeat(depth):
                child.depth = depth
                self._tree.child_heard(name, now)
            case ChildFailed(reason):
                self._tree.child_said_why(name, reason, now)

    def _died(self, name: str) -> None:
        self._read_lifeline(name)  # its last words
        self._reap(name, self._children[name], _REAP_ATTEMPTS)

    def _reap(self, name: str, child: ChildProcess, attempts: int) -> None:
        if self._children.get(name) is not child:
            return  # abandoned meanwhile
        end = child.reap()
        if end is None and attempts:
            # The kernel may make the pidfd ready a moment before the process can be waited for.
            self._loop.remove_reader(child.pidfd)
            self._loop.call_later(_REAP_AGAIN_S, self._reap, name, child, attempts - 1)
            return
        self._forget(name)
        child.release()
        # Without an end, somebody else in this process has waited for it.
        self._tree.child_exited(name, end or Exit(), self._now())
        self._act()

    # Mailbox

    def _answer(self, message: TreeRequest, sender: Sender) -> TreeReply:
        match message:
            case DescribeTree():
                return self._describe()
            case StopTree(grace_s) if not 0 <= grace_s < math.inf:
                return Refused("grace_s must be a number of seconds, 0 or more")
            case StopTree(grace_s):
                self._loop.call_soon(self.request_stop, grace_s)
                return Stopping()

    def _describe(self) -> TreeDescription:
        now = self._now()
        children = []
        for leaf in self._tree.leaves():
            process = self._children.get(leaf.name)
            children.append(
                ChildDescription(
                    name=leaf.name,
                    kind=leaf.spec.kind,
                    group=leaf.group_name,
                    pid=process.pid if process is not None else 0,
                    state=leaf.shown_state,
                    restarts=max(0, leaf.incarnation - 1),
                    uptime_s=now - leaf.started_at if process is not None else 0.0,
                    depth=process.depth if process is not None else 0,
                    last_exit=leaf.last_exit or "",
                )
            )
        return TreeDescription(os.getpid(), self._started_at, tuple(children))
