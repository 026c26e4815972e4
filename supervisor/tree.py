"""The supervision tree as a pure state machine: events and the time in, actions out, no process and no clock.

The rules are those of Erlang/OTP's supervisor, with some additions (back-off, heartbeats, siblings):

1. Children start in order; the next one starts when the one before it is ready. A group is ready when all its children
   are. A child that fails in the first start of its group's life, be it by a normal end, fails the start of the group.
2. A child that ended is restarted by its restart type, and with it, by the group's strategy, nobody, all, or those that
   were started after it. Those are first stopped in reverse order, then started in order. Temporary ones that were
   stopped so do not come back; transient ones that had finished do.
3. More restarts than the intensity allows within the period end the group: its children are stopped, and the group
   has failed as a child of its parent, which acts by its own strategy. The root's failure is the end of the tree.
   (In OTP such a group ends with `shutdown`, and a transient one stays down; here it is restarted.)
4. Children stop in reverse order, each before the next (or all together where the group says so): asked first, killed
   when their time is up. While one stops, those that were not asked yet are still looked after.
5. Restarts of one child are delayed by exponential back-off, which holds nobody else up but those that have to start
   after it again. A child that fails to start again counts as one more failure, whatever its restart type.
6. A ready child that has not been heard of for its heartbeat limit is killed; that is then an end like any other.
   Time in which the supervisor itself did not run counts against nobody.
7. Siblings are told of each other's ends and returns, as :mod:`supervisor.siblings` says.

Nothing here waits: OTP's supervisor takes up what happens during a start or a stop afterwards, this one at once. So
`_advance` and `_continue_stop` look at the present states only, and may be called at any time, also from within
themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from supervisor import patience
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
)
from supervisor.node import Ending, EndKind, Group, Leaf, State
from supervisor.siblings import told_down, told_up
from supervisor.spec import BackoffSpec, GroupSpec, Restart
from supervisor.strategy import comes_back, shares_fate
from supervisor.wish import StopWish


class Tree:
    """The state of every child. Events are methods; what is to be done is taken from :meth:`actions`."""

    def __init__(self, spec: GroupSpec) -> None:
        self.root = Group(spec, None, BackoffSpec())
        self.ready = False
        self.outcome: Outcome | None = None
        self._leaves = {leaf.name: leaf for leaf in self.root.leaves()}
        self._actions: list[Action] = []
        self._vigil = patience.Vigil()
        self._advanced_at = 0.0
        self._wish = StopWish()

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
        """Start everything, unless it was stopped already."""
        if self.outcome is None:
            self._start_group(self.root, now)

    def child_ready(self, name: str, now: float) -> None:
        """The child says that it serves."""
        self._observe(now)
        leaf = self._leaves[name]
        if leaf.state is not State.STARTING or leaf.killed:
            return
        leaf.state = State.RUNNING
        leaf.deadline = None
        leaf.heard_at = now
        leaf.ready_at = now
        leaf.was_ready = True
        leaf.in_sequence = False
        self._report("child_ready", "info", leaf, after_s=round(now - leaf.started_at, 3))
        self._actions.extend(told_up(leaf))
        self._advance(leaf.group, now)

    def child_heard(self, name: str, now: float) -> None:
        """The child has said anything at all."""
        self._observe(now)
        leaf = self._leaves[name]
        if leaf.heard_at is not None:
            leaf.heard_at = now

    def child_said_why(self, name: str, reason: str, now: float) -> None:
        """The child says why it cannot run; it is about to end, and is not waited for long."""
        self._observe(now)
        leaf = self._leaves[name]
        if not leaf.live:
            return
        leaf.verdict = leaf.verdict or reason
        if not leaf.killed:
            until = now + patience.LAST_WORDS_S
            leaf.deadline = until if leaf.deadline is None else min(leaf.deadline, until)

    def child_broken(self, name: str, why: str, now: float) -> None:
        """The child cannot be understood any more: it is replaced."""
        self._observe(now)
        leaf = self._leaves[name]
        if leaf.live and not leaf.killed:
            self._kill(leaf, why, now)

    def child_exited(self, name: str, end: Exit, now: float) -> None:
        """The child's process is gone, or could not be made."""
        self._observe(now)
        leaf = self._leaves[name]
        if leaf.live:
            self._gone(leaf, end, now)

    def stop(self, grace_s: float | None, now: float) -> None:
        """Stop everything; asked a second time (not within SAME_STOP_S), kill everything.

        No child is told more than what is left of `grace_s`, nor less than LEAST_GRACE_S when its turn comes late.
        """
        self._observe(now)
        if self.outcome is not None:
            return
        if self._wish.asked:
            if now - self._wish.since >= patience.SAME_STOP_S:
                self._force(now)
            return
        self._wish.begin(now, grace_s)
        self._report_line("stopping", "info", grace_s=grace_s)
        if self.root.state is State.DOWN:
            self._finish(Ending(EndKind.ASKED, "stopped before it started"))
            return
        for leaf in self.leaves():
            if leaf.state is State.STOPPING and not leaf.killed:
                self._ask(leaf, now)  # it was asked for a sibling's sake, and may have been given longer
        if self.root.ending is None:
            self._end_group(self.root, Ending(EndKind.ASKED, "stopped"), now)

    def tick(self, now: float) -> None:
        """Act on every deadline that has passed."""
        self._observe(now)
        self._advanced_at = now
        for leaf in self.leaves():
            silent_at = leaf.silent_at
            if leaf.deadline is not None and now >= leaf.deadline:
                self._overdue(leaf, now)
            elif leaf.state is State.RUNNING and silent_at is not None and now >= silent_at:
                self._kill(leaf, "missed heartbeats", now)
        for node in tuple(self.root.walk()):
            if isinstance(node, Group):
                self._advance(node, now)

    def next_deadline(self, now: float) -> float | None:
        """When :meth:`tick` has to be called at the latest, or None. To be asked after every event."""
        due = patience.next_due(self.root, now, self._advanced_at)
        self._vigil.expect(due)
        return due

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
            if due and (child.state is State.BACKING_OFF or (child.state is State.WAITING and not held)):
                self._start(child, now)
            # A group whose first start has failed holds the others too, until all that it started is stopped.
            held = held or (child.in_sequence and (child.live or child.state is State.WAITING))
        if not held and group.state is State.STARTING:
            group.state = State.RUNNING
            group.was_ready = True
            group.in_sequence = False
            group.ready_at = now
            if group.parent is not None:
                self._advance(group.parent, now)
            else:
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
        self._actions.append(StartProcess(child.name, child.incarnation))

    # Ends

    def _gone(self, leaf: Leaf, end: Exit, now: float) -> None:
        reason = f"{leaf.verdict} ({end})" if leaf.verdict else str(end)
        normal = end.normal and leaf.verdict is None
        asked = leaf.state is State.STOPPING
        if not normal and not leaf.killed:
            self._wish.note_fault(leaf.name)
        leaf.last_exit = reason
        level = "info" if normal or (asked and leaf.killed) else "warning"
        self._report("child_exited", level, leaf, reason=reason, asked=asked)
        leaf.deadline = leaf.heard_at = leaf.verdict = None
        leaf.killed = False
        self._ended(leaf, normal, reason, now)
        self._actions.extend(told_down(leaf, reason))  # now that it is known who stops with it

    def _ended(self, node: Leaf | Group, normal: bool, reason: str, now: float) -> None:
        """`node` has ended: go on with what its group is doing, or restart it."""
        group = node.parent
        assert group is not None, "the root's end is not told to anybody"
        up_s = None if node.ready_at is None else now - node.ready_at
        node.ready_at = None
        if group.ending is not None:
            node.state = State.DOWN
            self._continue_stop(group, now)
        elif node.name in group.to_stop:
            group.to_stop.discard(node.name)
            node.state = State.FINISHED if node.restart is Restart.TEMPORARY else State.WAITING
            node.in_sequence = True
            self._continue_stop(group, now)
        elif not node.was_ready:
            node.state = State.DOWN
            why = f"{node.name} failed to start: {reason}"
            self._end_group(group, Ending(EndKind.START_FAILED, why), now)
        elif up_s is None or comes_back(node, normal=normal):
            self._restart(node, group, up_s or 0.0, reason, now)
        else:
            node.state = State.FINISHED
            self._advance(group, now)

    def _restart(self, node: Leaf | Group, group: Group, up_s: float, reason: str, now: float) -> None:
        if group.window.add(now):
            spec = group.spec
            node.state = State.DOWN
            self._report_line(
                "intensity_exceeded", "error", group=group.name, limit=spec.intensity, period_s=spec.period_s
            )
            why = f"more than {spec.intensity} restarts in {spec.period_s:g} s, the last of {node.name}: {reason}"
            self._end_group(group, Ending(EndKind.INTENSITY, why), now)
            return
        delay = node.backoff.next_delay(up_s)
        self._report_line("child_restarting", "info", child=node.name, delay_ms=round(delay * 1000))
        node.not_before = now + delay
        others = shares_fate(group, node)
        node.state = State.WAITING if others else State.BACKING_OFF
        node.in_sequence = bool(others)
        for other in others:
            if other.live:
                group.to_stop.add(other.name)
            else:
                other.state = State.WAITING
                other.in_sequence = True
        self._continue_stop(group, now)

    # Stopping

    def _end_group(self, group: Group, ending: Ending, now: float) -> None:
        group.ending = ending
        group.state = State.STOPPING
        group.to_stop.clear()
        for child in group.children:
            if not child.live:
                child.state = State.DOWN
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
        if group.ending is None:
            self._advance(group, now)
        elif group.state is State.STOPPING and not any(child.live for child in group.children):
            self._group_ended(group, group.ending, now)

    def _stop_child(self, child: Leaf | Group, now: float) -> None:
        if isinstance(child, Group):
            self._end_group(child, Ending(EndKind.ASKED, "stopped"), now)
            return
        child.state = State.STOPPING
        self._actions.extend(told_down(child, "stopping"))
        if not child.killed:
            child.deadline = None
            self._ask(child, now)

    def _ask(self, leaf: Leaf, now: float) -> None:
        """Tell `leaf` its grace; once more when it has become shorter."""
        grace, allowed = patience.stop_times(leaf.spec, self._wish.remaining(now))
        if not allowed:
            self._kill(leaf, "not to be asked", now)
        elif leaf.deadline is None or now + allowed < leaf.deadline:
            leaf.deadline = now + allowed
            self._actions.append(AskToStop(leaf.name, grace))

    def _group_ended(self, group: Group, ending: Ending, now: float) -> None:
        group.state = State.DOWN
        group.ending = None
        if group.parent is None:
            self._finish(ending)
            return
        if ending.kind is not EndKind.ASKED:
            self._report_line("group_escalated", "error", group=group.name, reason=ending.reason)
        self._ended(group, False, ending.reason, now)

    def _force(self, now: float) -> None:
        """Kill everything. Every group ends here and now, so that none takes the kill for a failure."""
        self._wish.forced = True
        nodes = list(self.root.walk())
        for node in nodes:
            if not node.live:
                node.state = State.DOWN
            elif isinstance(node, Group):
                node.ending = node.ending or Ending(EndKind.ASKED, "stopped")
                node.state = State.STOPPING
            else:
                node.state = State.STOPPING
                if not node.killed:
                    self._kill(node, "told to stop at once", now)
        for node in reversed(nodes):
            if isinstance(node, Group) and node.state is State.STOPPING:
                self._continue_stop(node, now)

    def _finish(self, ending: Ending) -> None:
        asked = ending.kind is EndKind.ASKED
        self.outcome = self._wish.outcome(ending.reason) if asked else Outcome(ending.reason, clean=False)
        self._actions.append(Finish(self.outcome))

    # Patience

    def _overdue(self, leaf: Leaf, now: float) -> None:
        if leaf.killed:
            self._wish.note_fault(leaf.name)
            self._actions.append(AbandonProcess(leaf.name))
            self._report("child_abandoned", "error", leaf)
            self._gone(leaf, Exit(), now)
        elif leaf.state is State.STOPPING:
            self._wish.note_fault(leaf.name)
            self._kill(leaf, "did not stop in time", now)
        else:
            self._kill(leaf, f"not ready within {leaf.spec.start_timeout_s:g} s", now)

    def _kill(self, leaf: Leaf, why: str, now: float) -> None:
        leaf.killed = True
        leaf.verdict = leaf.verdict or why
        leaf.deadline = now + patience.KILL_PATIENCE_S
        self._report("child_killed", "warning", leaf, reason=leaf.verdict)
        self._actions.extend(told_down(leaf, leaf.verdict))
        self._actions.append(KillProcess(leaf.name))

    def _observe(self, now: float) -> None:
        """Give the children the time in which this process did not run: they may have stood still with it."""
        lost = self._vigil.lost(now)
        if lost >= patience.WORTH_REPORTING_S:
            self._report_line("supervisor_late", "warning", late_s=round(lost, 3))
        patience.forgive(self.leaves(), lost)

    # Reports

    def _report(self, event: str, level: str, leaf: Leaf, **fields: object) -> None:
        self._report_line(event, level, child=leaf.name, incarnation=leaf.incarnation, **fields)

    def _report_line(self, event: str, level: str, **fields: object) -> None:
        self._actions.append(Report(event, level, dict(fields)))
