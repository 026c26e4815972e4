"""The supervision tree as a pure state machine: events and the time in, actions out, no process and no clock.

The rules are those of Erlang/OTP's supervisor, with two additions (back-off, heartbeats):

1. Children start in order; the next one starts when the one before it is ready. A group is ready when all its children
   are. A child that fails in the first start of its group's life fails the start of the group.
2. A child that ended is restarted by its restart type, and with it, by the group's strategy, nobody, all, or those that
   were started after it. Those are first stopped in reverse order, then started in order.
3. More restarts than the intensity allows within the period end the group: its children are stopped, and the group
   has failed as a child of its parent, which acts by its own strategy. The root's failure is the end of the tree.
4. Children stop in reverse order, each before the next (or all together where the group says so): asked first, killed
   when their time is up.
5. Restarts of one child are delayed by exponential back-off, which holds nobody else up. A child that fails to start
   again counts as one more failure.
6. A ready child that has not been heard of for its heartbeat limit is killed; that is then an end like any other.
7. Siblings are told of each end of a ready child and of its being ready again. One that has just become ready is told
   which siblings are down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from supervisor.action import (
    AbandonProcess,
    Action,
    AskToStop,
    Exit,
    Finish,
    KillProcess,
    Outcome,
    Report,
    StartProcess,
    TellSibling,
)
from supervisor.node import Ending, EndKind, Group, Leaf, State
from supervisor.spec import BackoffSpec, GroupSpec, Restart, Strategy

KILL_PATIENCE_S = 5.0
"""How long after SIGKILL a process that is not gone (stuck in the kernel) is let go of."""


class Tree:
    """The state of every child. Events are methods; what is to be done is taken from :meth:`actions`."""

    def __init__(self, spec: GroupSpec) -> None:
        self.root = Group(spec, None, BackoffSpec())
        self._leaves = {leaf.name: leaf for leaf in self.root.leaves()}
        self._actions: list[Action] = []
        self._clean = True
        self._stops = 0
        self.ready = False

    def actions(self) -> Sequence[Action]:
        """Take what is to be done, in order."""
        actions, self._actions = self._actions, []
        return actions

    def leaf(self, name: str) -> Leaf:
        """The child `name`. Raises KeyError."""
        return self._leaves[name]

    def leaves(self) -> Iterator[Leaf]:
        """All children, in start order."""
        return self.root.leaves()

    # Events

    def begin(self, now: float) -> None:
        """Start everything."""
        self._start_group(self.root, now)

    def child_ready(self, name: str, now: float) -> None:
        """The child says that it serves."""
        leaf = self._leaves[name]
        leaf.heard_at = now
        if leaf.state is not State.STARTING or leaf.killed:
            return
        leaf.state = State.RUNNING
        leaf.deadline = None
        leaf.ready_at = now
        leaf.was_ready = True
        leaf.in_sequence = False
        self._report("child_ready", "info", leaf, after_s=round(now - leaf.started_at, 3))
        self._tell_up(leaf)
        self._advance(leaf.group, now)

    def child_heard(self, name: str, now: float) -> None:
        """The child has said anything at all."""
        self._leaves[name].heard_at = now

    def child_said_why(self, name: str, reason: str) -> None:
        """The child says why it is about to end."""
        self._leaves[name].verdict = reason

    def child_exited(self, name: str, end: Exit, now: float) -> None:
        """The child's process is gone."""
        leaf = self._leaves[name]
        if not leaf.live:
            return
        reason = f"{leaf.verdict} ({end})" if leaf.verdict else str(end)
        leaf.last_exit = reason
        stopping = leaf.state is State.STOPPING
        abnormal = not end.normal
        level = "info" if stopping and not leaf.killed else "warning"
        self._report("child_exited", level, leaf, reason=reason)
        if stopping and (leaf.killed or abnormal):
            self._clean = False
        self._tell_down(leaf, reason)
        up_s = now - leaf.ready_at if leaf.ready_at is not None else 0.0
        leaf.deadline = leaf.heard_at = leaf.ready_at = leaf.verdict = None
        leaf.killed = False
        self._ended(leaf, stopping, abnormal, up_s, f"{leaf.name}: {reason}", now)

    def stop(self, grace_s: float | None, now: float) -> None:
        """Stop everything; asked a second time, kill everything. `grace_s` shortens what the children are given."""
        self._stops += 1
        if self._stops == 1:
            self._report_line("stopping", "info")
            self._grace_s = grace_s
            if self.root.state is State.DOWN:
                self._actions.append(Finish(Outcome("stopped before it started", True)))
            elif self.root.ending is None:
                self._end_group(self.root, Ending(EndKind.ASKED, "stopped"), now)
            return
        for leaf in self.leaves():
            if leaf.live and not leaf.killed:
                self._kill(leaf, "told to stop at once", now)

    _grace_s: float | None = None

    def tick(self, now: float) -> None:
        """Act on every deadline that has passed."""
        for leaf in self.leaves():
            silent_at = leaf.silent_at
            if leaf.deadline is not None and now >= leaf.deadline:
                self._overdue(leaf, now)
            elif leaf.state is State.RUNNING and silent_at is not None and now >= silent_at:
                self._kill(leaf, "missed heartbeats", now)
        for node in tuple(self.root.walk()):
            if isinstance(node, Group) and node.live and node.ending is None and not node.to_stop:
                self._advance(node, now)

    def next_deadline(self) -> float | None:
        """When :meth:`tick` has something to do next, or None."""
        times: list[float] = []
        for node in self.root.walk():
            if isinstance(node, Leaf):
                if node.deadline is not None:
                    times.append(node.deadline)
                if node.state is State.RUNNING and node.silent_at is not None:
                    times.append(node.silent_at)
            if node.state in (State.BACKING_OFF, State.WAITING) and node.not_before > 0:
                times.append(node.not_before)
        return min(times, default=None)

    # Starting

    def _start_group(self, group: Group, now: float) -> None:
        group.state = State.STARTING
        group.ending = None
        group.to_stop.clear()
        group.window.clear()
        for child in group.children:
            child.state = State.WAITING
            child.in_sequence = True
            child.was_ready = False
            child.not_before = 0.0
            child.backoff.clear()
        self._advance(group, now)

    def _advance(self, group: Group, now: float) -> None:
        """Start what is due: in sequence those that wait for the ones before, by themselves those that back off."""
        if group.ending is not None or group.to_stop or not group.live:
            return
        held = False
        for child in group.children:
            due = child.not_before <= now
            if (child.state is State.BACKING_OFF and due) or (
                child.state is State.WAITING and not held and due
            ):
                self._start(child, now)
                if group.ending is not None or group.to_stop:
                    return
            held = held or (child.in_sequence and child.state in (State.WAITING, State.STARTING))
        if not held and group.state is State.STARTING:
            group.state = State.RUNNING
            group.was_ready = True
            group.in_sequence = False
            group.ready_at = now
            if group.parent is not None:
                self._advance(group.parent, now)
            elif not self.ready:
                self.ready = True

    def _start(self, child: Leaf | Group, now: float) -> None:
        child.not_before = 0.0
        if isinstance(child, Group):
            self._start_group(child, now)
            return
        child.incarnation += 1
        child.state = State.STARTING
        child.started_at = now
        child.deadline = now + child.spec.start_timeout_s
        child.heard_at = None
        child.killed = False
        self._actions.append(StartProcess(child.name, child.incarnation))

    # Ends

    def _ended(
        self, node: Leaf | Group, stopping: bool, abnormal: bool, up_s: float, reason: str, now: float
    ) -> None:
        """`node` has ended: go on with what its group is doing, or restart it."""
        group = node.parent
        assert group is not None, "the root's end is not told to anybody"
        if group.ending is not None:
            node.state = State.DOWN
            self._continue_stop(group, now)
        elif node.name in group.to_stop:
            group.to_stop.discard(node.name)
            self._await_restart(node)
            self._continue_stop(group, now)
        elif stopping:
            node.state = State.FINISHED
        elif not node.was_ready and group.state is State.STARTING and node.in_sequence:
            node.state = State.DOWN
            self._end_group(group, Ending(EndKind.START_FAILED, reason), now)
        elif node.restart is Restart.PERMANENT or (node.restart is Restart.TRANSIENT and abnormal):
            self._restart(node, group, up_s, reason, now)
        else:
            node.state = State.FINISHED
            node.in_sequence = False
            self._advance(group, now)

    def _restart(self, node: Leaf | Group, group: Group, up_s: float, reason: str, now: float) -> None:
        if group.window.add(now):
            node.state = State.DOWN
            spec = group.spec
            self._report_line(
                "intensity_exceeded", "error", group=group.name, limit=spec.intensity, period_s=spec.period_s
            )
            why = f"more than {spec.intensity} restarts in {spec.period_s:g} s, the last of {reason}"
            self._end_group(group, Ending(EndKind.INTENSITY, why), now)
            return
        delay = node.backoff.next_delay(up_s)
        self._report_line("child_restarting", "info", child=node.name, delay_ms=round(delay * 1000))
        node.state = State.BACKING_OFF
        node.not_before = now + delay
        also = self._restarted_with(node, group)
        if also:
            node.state = State.WAITING
            node.in_sequence = True
            group.to_stop = {child.name for child in also if child.live}
            for child in also:
                if not child.live:
                    self._await_restart(child)
            self._continue_stop(group, now)
        else:
            self._advance(group, now)

    def _restarted_with(self, node: Leaf | Group, group: Group) -> list[Leaf | Group]:
        strategy = group.spec.strategy
        if strategy is Strategy.ONE_FOR_ONE:
            return []
        at = group.children.index(node)
        return [
            child
            for index, child in enumerate(group.children)
            if index != at
            and (strategy is Strategy.ONE_FOR_ALL or index > at)
            and child.state is not State.FINISHED
        ]

    def _await_restart(self, node: Leaf | Group) -> None:
        """A child that was stopped for a sibling's sake starts again in sequence; a temporary one does not."""
        if node.restart is Restart.TEMPORARY:
            node.state = State.FINISHED
            node.in_sequence = False
        else:
            node.state = State.WAITING
            node.in_sequence = True

    # Stopping

    def _end_group(self, group: Group, ending: Ending, now: float) -> None:
        group.ending = ending
        group.state = State.STOPPING
        group.to_stop.clear()
        for child in group.children:
            if not child.live:
                child.state = State.FINISHED if child.state is State.FINISHED else State.DOWN
        self._continue_stop(group, now)

    def _continue_stop(self, group: Group, now: float) -> None:
        """Ask the next child to stop, or all; go on when none is left."""
        for child in reversed(group.children):
            if not child.live or (group.ending is None and child.name not in group.to_stop):
                continue
            if child.state is not State.STOPPING:
                self._stop_child(child, now)
            if child.live and not group.spec.stop_together:
                return
        if group.ending is not None:
            if not any(child.live for child in group.children) and group.state is State.STOPPING:
                self._group_ended(group, group.ending, now)
        elif not group.to_stop:
            self._advance(group, now)

    def _stop_child(self, child: Leaf | Group, now: float) -> None:
        if isinstance(child, Group):
            if child.ending is None:
                self._end_group(child, Ending(EndKind.ASKED, "stopped"), now)
            return
        grace = child.spec.shutdown_s
        if self._grace_s is not None and self._stops:
            grace = min(grace, self._grace_s)
        child.state = State.STOPPING
        if grace <= 0:
            self._kill(child, "not to be asked", now)
            return
        child.deadline = now + grace
        self._actions.append(AskToStop(child.name, grace))

    def _group_ended(self, group: Group, ending: Ending, now: float) -> None:
        group.state = State.DOWN
        group.ending = None
        if group.parent is None:
            clean = ending.kind is EndKind.ASKED and self._clean
            self._actions.append(Finish(Outcome(ending.reason, clean)))
            return
        asked = ending.kind is EndKind.ASKED
        if not asked:
            self._report_line("group_escalated", "error", group=group.name, reason=ending.reason)
        up_s = now - group.ready_at if group.ready_at is not None else 0.0
        group.ready_at = None
        self._ended(group, asked, not asked, up_s, f"{group.name}: {ending.reason}", now)

    def _overdue(self, leaf: Leaf, now: float) -> None:
        if leaf.killed:
            self._actions.append(AbandonProcess(leaf.name))
            self._report("child_abandoned", "error", leaf)
            self.child_exited(leaf.name, Exit(), now)
        elif leaf.state is State.STARTING:
            self._kill(leaf, f"not ready within {leaf.spec.start_timeout_s:g} s", now)
        else:
            self._kill(leaf, "did not stop in time", now)

    def _kill(self, leaf: Leaf, why: str, now: float) -> None:
        leaf.killed = True
        leaf.verdict = why
        leaf.deadline = now + KILL_PATIENCE_S
        self._report("child_killed", "warning", leaf, reason=why)
        self._tell_down(leaf, why)
        self._actions.append(KillProcess(leaf.name))

    # Telling

    def _siblings(self, leaf: Leaf) -> Iterator[Leaf]:
        for child in leaf.group.children:
            if isinstance(child, Leaf) and child is not leaf:
                yield child

    def _tell_up(self, leaf: Leaf) -> None:
        leaf.up = True
        for sibling in self._siblings(leaf):
            if sibling.up:
                self._actions.append(TellSibling(sibling.name, leaf.name, True, ""))
            elif sibling.last_exit is not None or sibling.killed:
                self._actions.append(
                    TellSibling(leaf.name, sibling.name, False, sibling.last_exit or "killed")
                )

    def _tell_down(self, leaf: Leaf, reason: str) -> None:
        if not leaf.up:
            return
        leaf.up = False
        if leaf.group.ending is not None:
            return  # everybody goes
        for sibling in self._siblings(leaf):
            if sibling.up:
                self._actions.append(TellSibling(sibling.name, leaf.name, False, reason))

    def _report(self, event: str, level: str, leaf: Leaf, **fields: object) -> None:
        self._report_line(event, level, child=leaf.name, incarnation=leaf.incarnation, **fields)

    def _report_line(self, event: str, level: str, **fields: object) -> None:
        self._actions.append(Report(event, level, dict(fields)))
