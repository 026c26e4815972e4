"""How children and groups start, end, stop and are waited for, by the rules that :mod:`supervisor.tree` states.

Nothing here waits: OTP's supervisor takes up what happens during a start or a stop afterwards, this one at once. So
`_advance` and `_continue_stop` look at the present states only, and may be called at any time, also from within
themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

from supervisor import patience
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
)
from supervisor.node import Ending, EndKind, Group, Leaf, State
from supervisor.siblings import told_down
from supervisor.spec import BackoffSpec, GroupSpec, Restart
from supervisor.strategy import comes_back, shares_fate
from supervisor.wish import StopWish


class Lifecycle:
    """The state of every child and what is to be done, without the events that change it."""

    def __init__(self, spec: GroupSpec) -> None:
        self.root = Group(spec, None, BackoffSpec())
        self.ready = False
        self.outcome: Outcome | None = None
        self._leaves = {leaf.name: leaf for leaf in self.root.leaves()}
        self._actions: list[Action] = []
        self._vigil = patience.Vigil()
        self._advanced_at = 0.0
        self._wish = StopWish()

    def leaves(self) -> Iterator[Leaf]:
        """All children, in start order."""
        return self.root.leaves()

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
        for child in tuple(group.children):
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
            self._joined(group)
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

    def _joined(self, node: Leaf | Group) -> None:
        if node.joining:
            node.joining = False
            self._actions.append(Joined(node.name))

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
        comes_again = node.name in group.to_stop and node.restart is not Restart.TEMPORARY
        if node.leaving or (node.joining and not comes_again):
            self._forget(node, group, reason)
            self._continue_stop(group, now)
        elif group.ending is not None:
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

    def _forget(self, node: Leaf | Group, group: Group, reason: str) -> None:
        node.state = State.DOWN
        group.children.remove(node)
        group.to_stop.discard(node.name)
        self._leaves = {leaf.name: leaf for leaf in self.root.leaves()}
        self._actions.append(Removed(node.name, reason))

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
        for child in tuple(group.children):
            if child.live:
                continue
            child.state = State.DOWN
            if child.joining:
                self._forget(child, group, f"{group.name} ends")
        self._continue_stop(group, now)

    def _continue_stop(self, group: Group, now: float) -> None:
        """Ask the next child to stop, or all; go on when none is left."""
        for child in tuple(reversed(group.children)):
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
        if ending.kind is not EndKind.ASKED and not group.leaving:
            self._report_line("group_escalated", "error", group=group.name, reason=ending.reason)
        self._ended(group, False, ending.reason, now)

    def _force(self, now: float) -> None:
        """Kill everything. Every group ends here and now, so that none takes the kill for a failure."""
        self._wish.forced = True
        nodes = list(self.root.walk())
        for node in nodes:
            if not node.live:
                node.state = State.DOWN
                if node.joining and node.parent is not None:
                    self._forget(node, node.parent, f"{node.parent.name} ends")
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
