"""What is written down while harm is done, for the verdict at the end. Times are of :func:`time.monotonic`."""

from __future__ import annotations

from dataclasses import dataclass, field

Address = tuple[str, int]
"""A client's end of a connection."""


@dataclass(slots=True)
class Call:
    """A connection made for one question. `secured_at` is when it was through to the acceptor and its TLS stood."""

    route: str
    began: float
    address: Address | None = None
    secured_at: float = 0.0
    ended: float = 0.0
    error: str = ""

    @property
    def is_over(self) -> bool:
        return self.ended > 0.0


@dataclass(slots=True)
class Talk:
    """A connection that stays open: questions and answers, or one bulk transfer (`kind`)."""

    kind: str
    route: str
    began: float
    address: Address | None = None
    answers: int = 0
    answered_at: float = 0.0
    moved: int = 0
    ended: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Death:
    """A process that was killed. From `frozen_at` on it did nothing any more; `clients` are those that it held then."""

    name: str
    frozen_at: float
    killed_at: float
    clients: frozenset[Address] = frozenset()


@dataclass(slots=True)
class StepResult:
    """What came of one step. `problems` are broken promises; `figures` are shown, and added up by name."""

    harm: str
    victim: str
    began: float
    ended: float = 0.0
    problems: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    skipped: str = ""


@dataclass
class Evidence:
    """Everything that was seen in one run."""

    calls: list[Call] = field(default_factory=list)
    talks: list[Talk] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    steps: list[StepResult] = field(default_factory=list)
    closed: list[tuple[float, float]] = field(default_factory=list)
    """Spans of time in which nobody listened on the port, by intent: the supervisor was killed."""
    drained: list[tuple[float, float]] = field(default_factory=list)
    """When a supervisor was killed, and when its acceptors may have cut what they had then: their drain was over."""
    tracebacks: list[str] = field(default_factory=list)
