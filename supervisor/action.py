"""What the supervision tree wants done, and the values that go in and out with it."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: an exit code, the signal that killed it, or neither when nobody can know."""

    code: int | None = None
    signal: int | None = None

    @property
    def normal(self) -> bool:
        """Whether the child returned from what it was told to run."""
        return self.code == 0

    def __str__(self) -> str:
        if self.signal is not None:
            try:
                return f"killed by {signal.Signals(self.signal).name}"
            except ValueError:
                return f"killed by signal {self.signal}"
        return "ended in an unknown way" if self.code is None else f"exit code {self.code}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Why the tree ended.

    `clean`: it was asked to, and from then on no child failed or had to be killed for being late. Killing a child
    whose `shutdown_s` is 0 is its ordinary way to end.
    """

    reason: str
    clean: bool


@dataclass(frozen=True, slots=True)
class StartProcess:
    """Fork the child; answer with `child_exited` if that cannot be done."""

    name: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class AskToStop:
    """Tell the child to end by itself within `grace_s` seconds."""

    name: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class KillProcess:
    """SIGKILL the child."""

    name: str


@dataclass(frozen=True, slots=True)
class AbandonProcess:
    """Let go of a child that did not even die of SIGKILL; nothing more may be said of it."""

    name: str


@dataclass(frozen=True, slots=True)
class TellSibling:
    """Tell `name` that its sibling is up, or down and why."""

    name: str
    sibling: str
    up: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Joined:
    """What was added under `name` while the tree ran is ready: from now on it is a member like any other."""

    name: str


@dataclass(frozen=True, slots=True)
class Removed:
    """The tree has forgotten `name`: it was retired, or it was added and did not become ready; `reason` says more."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """Something worth a log line. `level` is a name of a logging level."""

    event: str
    level: str
    fields: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing runs any more."""

    outcome: Outcome


Action = (
    StartProcess | AskToStop | KillProcess | AbandonProcess | TellSibling | Joined | Removed | Report | Finish
)
