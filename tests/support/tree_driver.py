"""A supervision tree with imagined processes: carries out its actions, and complains when they make no sense."""

from __future__ import annotations

from dataclasses import dataclass, field

from supervisor.action import (
    AbandonProcess,
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
from supervisor.node import Group, Leaf, State
from supervisor.spec import ChildSpec, GroupSpec
from supervisor.tree import Tree


@dataclass
class Process:
    """`asked`: the grace it was told last. `told`: what it was told of its siblings."""

    incarnation: int
    asked: float | None = None
    killed: bool = False
    told: list[tuple[str, bool]] = field(default_factory=list)


class CheckedTree(Tree):
    """Complains at the moment of the decision; when the action is carried out, later ones may have undone it."""

    def _start(self, child: Leaf | Group, now: float) -> None:
        group = child.parent
        assert group is not None
        assert group.state in (State.STARTING, State.RUNNING), f"{child.name} starts in a group {group.state}"
        assert not group.to_stop, f"{child.name} starts while {group.to_stop} have to stop"
        super()._start(child, now)


class TreeDriver:
    """`history` has one word per action: ``+a`` start, ``-a`` ask to stop, ``!a`` kill, ``~a`` abandon.

    `settled` has one more per change of the tree: ``+a`` joined, ``-a`` removed; `removed` why.
    """

    def __init__(self, spec: GroupSpec, *, begin: bool = True) -> None:
        self.tree = CheckedTree(spec)
        self.now = 1000.0
        self.processes: dict[str, Process] = {}
        self.history: list[str] = []
        self.settled: list[str] = []
        self.removed: dict[str, str] = {}
        self.reports: list[Report] = []
        self.outcome: Outcome | None = None
        self.due: float | None = None
        if begin:
            self.tree.begin(self.now)
            self.act()

    # Events

    def ready(self, *names: str) -> None:
        for name in names:
            assert name in self.processes, f"{name} does not run: {self.history}"
            self.tree.child_ready(name, self.now)
            self.act()

    def beat(self, *names: str) -> None:
        for name in names:
            self.tree.child_heard(name, self.now)
            self.act()

    def exit(self, name: str, code: int | None = 1, *, signal: int | None = None) -> None:
        del self.processes[name]
        self.tree.child_exited(name, Exit(None if signal else code, signal), self.now)
        self.act()

    def stop(self, grace_s: float | None = None) -> None:
        self.tree.stop(grace_s, self.now)
        self.act()

    def add(self, spec: ChildSpec | GroupSpec, parent: str = "", before: str = "") -> None:
        self.tree.add(spec, self.now, parent, before)
        self.act()

    def retire(self, name: str) -> None:
        self.tree.retire(name, self.now)
        self.act()

    def fail(self, name: str, reason: str) -> None:
        self.tree.child_said_why(name, reason, self.now)
        self.act()

    def wait(self, seconds: float, *, beating: bool = True) -> None:
        """Let time pass, ticking whenever the tree wants it; all running children beat unless told otherwise."""
        until = self.now + seconds
        ticks = 0
        while self.due is not None and self.due <= until:
            assert ticks < 10_000, "the timer spins"
            ticks += 1
            self.now = max(self.now, self.due)
            if beating:
                for name in self.processes:
                    self.tree.child_heard(name, self.now)
            self.tree.tick(self.now)
            self.act()
        self.now = until

    def sleep_through(self, seconds: float) -> None:
        """Let time pass without a tick, as in a supervisor that is stopped; then tick."""
        self.now += seconds
        self.tree.tick(self.now)
        self.act()

    def start_all(self) -> None:
        """Make every child ready that waits for it, until none does."""
        while starting := [leaf.name for leaf in self.tree.leaves() if leaf.state is State.STARTING]:
            self.ready(starting[0])

    def stop_all(self) -> None:
        """Let every child go that was asked or killed, until none is left."""
        while going := [name for name, process in self.processes.items() if leaving(process)]:
            self.exit(going[0], 0)

    # What is seen

    @property
    def running(self) -> set[str]:
        return set(self.processes)

    def state(self, name: str) -> State:
        node = next(node for node in self.tree.root.walk() if node.name == name)
        return node.state

    def group(self, name: str) -> Group:
        node = next(node for node in self.tree.root.walk() if node.name == name)
        assert isinstance(node, Group)
        return node

    def names(self) -> list[str]:
        """Everything in the tree but the root."""
        return [node.name for node in self.tree.root.walk()][1:]

    def incarnation(self, name: str) -> int:
        return self.tree.leaf(name).incarnation

    def taken(self) -> list[str]:
        """The history since it was last asked for."""
        history, self.history = self.history, []
        return history

    def told(self, name: str) -> list[tuple[str, bool]]:
        """What the child was told of its siblings since it was last asked."""
        told, self.processes[name].told = self.processes[name].told, []
        return told

    def reported(self, event: str) -> list[dict[str, object]]:
        return [report.fields for report in self.reports if report.event == event]

    # Actions

    def act(self) -> None:
        while actions := self.tree.actions():
            for action in actions:
                self._carry_out(action)
        self.due = self.tree.next_deadline(self.now)

    def _carry_out(self, action: object) -> None:
        assert self.outcome is None or isinstance(action, Report), f"{action} after the end"
        match action:
            case StartProcess(name, incarnation):
                assert name not in self.processes, f"two processes of {name}"
                self.processes[name] = Process(incarnation)
                self.history.append(f"+{name}")
            case AskToStop(name, grace_s):
                process = self.processes[name]
                assert not process.killed, f"{name} is asked after it was killed"
                assert process.asked is None or grace_s <= process.asked
                process.asked = grace_s
                self.history.append(f"-{name}")
            case KillProcess(name):
                assert not self.processes[name].killed, f"{name} is killed twice"
                self.processes[name].killed = True
                self.history.append(f"!{name}")
            case AbandonProcess(name):
                assert self.processes[name].killed, f"{name} is abandoned alive"
                del self.processes[name]
                self.history.append(f"~{name}")
            case TellSibling(name, sibling, up):
                process = self.processes[name]
                assert not leaving(process), f"{name} is told of {sibling} on its way out"
                assert self.tree.leaf(name).ready_at is not None, (
                    f"{name} is told of {sibling} before it is ready"
                )
                process.told.append((sibling, up))
            case Joined(name):
                assert f"+{name}" not in self.settled, f"{name} has joined already"
                self.settled.append(f"+{name}")
            case Removed(name, reason):
                assert name not in self.removed, f"{name} is removed already"
                assert name not in self.processes, f"{name} is forgotten while it runs"
                assert name not in {node.name for node in self.tree.root.walk()}
                self.settled.append(f"-{name}")
                self.removed[name] = reason
            case Report():
                self.reports.append(action)
            case Finish(outcome):
                assert not self.processes, f"finished, and {self.running} still run"
                self.outcome = outcome
            case _:
                raise AssertionError(action)


def leaving(process: Process) -> bool:
    return process.killed or process.asked is not None


def never(birth: object) -> None:
    raise AssertionError("an imagined child was run")


def child(name: str, **settings: object) -> ChildSpec:
    return ChildSpec(name, "test", never, f"test: {name}", **settings)  # type: ignore[arg-type]


def group(*children: ChildSpec | GroupSpec | str, name: str = "root", **settings: object) -> GroupSpec:
    """A group, in which a name stands for a child; it may restart often unless told otherwise."""
    settings.setdefault("intensity", 100)
    made = tuple(child(each) if isinstance(each, str) else each for each in children)
    return GroupSpec(name, made, **settings)  # type: ignore[arg-type]


def started(*children: ChildSpec | GroupSpec | str, **settings: object) -> TreeDriver:
    """A driver whose children are all ready, and have told each other."""
    driver = TreeDriver(group(*children, **settings))
    driver.start_all()
    assert driver.tree.ready
    driver.taken()
    for name in driver.running:
        driver.told(name)
    return driver
