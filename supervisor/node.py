"""What the supervision tree knows of each child and group. Data only; the rules are in :mod:`supervisor.tree`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from supervisor.backoff import Backoff
from supervisor.intensity import Intensity
from supervisor.spec import BackoffSpec, ChildSpec, GroupSpec


class State(StrEnum):
    """Where a child or a group is in its life."""

    WAITING = "waiting"  # due to be started when those before it are ready
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    BACKING_OFF = "backing-off"  # due to be started at `not_before`, whatever the others do
    FINISHED = "finished"  # ended, and not to be started again by itself
    DOWN = "down"  # stopped with its group


LIVE = frozenset({State.STARTING, State.RUNNING, State.STOPPING})


class EndKind(StrEnum):
    """Why a group ends: its parent (or the user) asked, a first start failed, too many restarts."""

    ASKED = "asked"
    START_FAILED = "start failed"
    INTENSITY = "intensity"


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a group is stopping its children."""

    kind: EndKind
    reason: str


class Node:
    """What children and groups have in common.

    `was_ready`: in the present life of its group. `in_sequence`: those after it wait until it is ready.
    `joining`: added while the tree runs, and not ready yet. `leaving`: retired, and not gone yet.
    """

    def __init__(self, spec: ChildSpec | GroupSpec, parent: Group | None, backoff: BackoffSpec) -> None:
        self.name = spec.name
        self.restart = spec.restart
        self.parent = parent
        self.state = State.DOWN
        self.backoff = Backoff(backoff)
        self.not_before = 0.0
        self.was_ready = False
        self.in_sequence = False
        self.joining = False
        self.leaving = False
        self.ready_at: float | None = None

    @property
    def live(self) -> bool:
        """Whether something of it runs."""
        return self.state in LIVE

    @property
    def group_name(self) -> str:
        """The name of its group, empty for the root."""
        return self.parent.name if self.parent is not None else ""


class Leaf(Node):
    """A child process.

    `deadline` is when patience ends in the present state: to be ready, to go after being asked, to die after
    SIGKILL. `verdict` is why it is or will be killed, or what it said about its own end. `up`: its siblings were
    told so.
    """

    def __init__(self, spec: ChildSpec, parent: Group, backoff: BackoffSpec) -> None:
        super().__init__(spec, parent, backoff)
        self.spec = spec
        self.group = parent
        self.incarnation = 0
        self.started_at = 0.0
        self.deadline: float | None = None
        self.heard_at: float | None = None
        self.killed = False
        self.up = False
        self.verdict: str | None = None
        self.last_exit: str | None = None

    @property
    def silent_at(self) -> float | None:
        """When the child is judged hung unless it says something before; None where nobody judges."""
        limit = self.spec.heartbeat_timeout_s
        if limit is None or self.heard_at is None or self.killed:
            return None
        return self.heard_at + limit

    @property
    def shown_state(self) -> str:
        """The state as people are shown it."""
        if self.live and self.killed:
            return "killed"
        if self.state is State.WAITING and self.incarnation and self.not_before > 0:
            return State.BACKING_OFF.value
        return self.state.value


class Group(Node):
    """A group of children. `to_stop`: children that go because of a sibling's end, and will be started again."""

    def __init__(self, spec: GroupSpec, parent: Group | None, backoff: BackoffSpec) -> None:
        super().__init__(spec, parent, backoff)
        self.spec = spec
        self.window = Intensity(spec.intensity, spec.period_s)
        self.ending: Ending | None = None
        self.to_stop: set[str] = set()
        self.children: list[Leaf | Group] = []
        for child in spec.children:
            self.append(child)

    def append(self, spec: ChildSpec | GroupSpec, before: str = "") -> Leaf | Group:
        """Make `spec` the last child, or the one before the child `before` if there is one; return it."""
        backoff = self.spec.backoff
        child = Group(spec, self, backoff) if isinstance(spec, GroupSpec) else Leaf(spec, self, backoff)
        places = (place for place, each in enumerate(self.children) if each.name == before)
        self.children.insert(next(places, len(self.children)), child)
        return child

    def leaves(self) -> Iterator[Leaf]:
        """Return every child process in it, nested ones too, in start order."""
        return (node for node in self.walk() if isinstance(node, Leaf))

    def walk(self) -> Iterator[Leaf | Group]:
        """Yield this group and everything in it, in start order."""
        yield self
        for child in self.children:
            if isinstance(child, Group):
                yield from child.walk()
            else:
                yield child
