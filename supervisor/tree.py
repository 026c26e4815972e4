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
8. A child or group can be added to a group that runs, at its end or before a child that is to stop earlier than what
   is added: it starts when those before it are ready, and holds nobody up.
   Until it is ready its end is nobody's failure: it is forgotten, with whoever added it told why. From then on it is
   a member like any other, which comes back with its group.
9. A child or group can be retired: it stops in its own time, counts as nobody's failure whatever becomes of it, is not
   restarted together with siblings, and is forgotten when it is gone.

The events are here, what follows from them in :mod:`supervisor.lifecycle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from supervisor import patience
from supervisor.action import Action, Exit
from supervisor.lifecycle import Lifecycle
from supervisor.node import Ending, EndKind, Group, Leaf, State
from supervisor.siblings import told_new, told_up
from supervisor.spec import ChangeRefused, ChildSpec, GroupSpec


class Tree(Lifecycle):
    """The state of every child. Events are methods; what is to be done is taken from :meth:`actions`."""

    def actions(self) -> Sequence[Action]:
        """Take what is to be done, in order."""
        actions, self._actions = self._actions, []
        return actions

    def leaf(self, name: str) -> Leaf:
        """The child `name`. Raises KeyError."""
        return self._leaves[name]

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
        self._joined(leaf)
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

    # Changes

    def add(self, spec: ChildSpec | GroupSpec, now: float, parent: str = "", before: str = "") -> None:
        """Start `spec` as the last child of the group `parent` (the root if empty), or before the child `before`.

        :class:`Joined` or :class:`Removed` says what came of it. Raises :class:`ChangeRefused` when a name in it is
        taken, and when the group is not there or does not run.
        """
        self._observe(now)
        group = self._find(parent) if parent else self.root
        if not isinstance(group, Group):
            raise ChangeRefused(f"{parent} is no group")
        if not group.live or group.ending is not None:
            raise ChangeRefused(f"{group.name} does not run")
        wanted = {each.name for each in (spec.walk() if isinstance(spec, GroupSpec) else (spec,))}
        if taken := wanted & {each.name for each in self.root.walk()}:
            raise ChangeRefused(f"there is one already: {', '.join(sorted(taken))}")
        node = group.append(spec, before)
        node.joining = True
        node.state = State.WAITING
        self._leaves = {leaf.name: leaf for leaf in self.root.leaves()}
        if isinstance(node, Leaf):
            self._actions.extend(told_new(node))
        self._advance(group, now)

    def retire(self, name: str, now: float) -> None:
        """Stop the child or group `name` and forget it; :class:`Removed` tells when it is gone.

        Raises :class:`ChangeRefused` when there is none, for the root, and when everything has ended.
        """
        self._observe(now)
        if self.outcome is not None:
            raise ChangeRefused("the tree has ended")
        node = self._find(name)
        group = node.parent
        if group is None:
            raise ChangeRefused(f"{name} is the whole tree")
        if node.leaving:
            return
        node.leaving = True
        node.in_sequence = False
        if not node.live:
            self._forget(node, group, "retired")
            self._continue_stop(group, now)
            return
        group.to_stop.discard(name)
        if node.state is not State.STOPPING and group.ending is None:
            self._stop_child(node, now)
        self._continue_stop(group, now)

    def allow_to_stop(self, name: str, shutdown_s: float, now: float) -> None:
        """Give `name`, or every child in it, `shutdown_s` seconds to stop in, from the next time it is asked to.

        Raises :class:`ChangeRefused` when there is none.
        """
        self._observe(now)
        node = self._find(name)
        for leaf in (node,) if isinstance(node, Leaf) else node.leaves():
            leaf.spec = replace(leaf.spec, shutdown_s=shutdown_s)

    # Time

    def tick(self, now: float) -> None:
        """Act on every deadline that has passed."""
        self._observe(now)
        self._advanced_at = now
        for leaf in tuple(self.leaves()):
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

    def _find(self, name: str) -> Leaf | Group:
        for node in self.root.walk():
            if node.name == name:
                return node
        raise ChangeRefused(f"there is no {name}")
