"""What the benchmark found: figures, each with its range, its target and whether it is met."""

from __future__ import annotations

from msgspec import Struct, field

from tools.bench.figures import Spread


class Target(Struct, frozen=True):
    """What a figure has to be: at most `limit`, for the `ratio` to the reference or the `value` itself."""

    of: str
    limit: float


class Figure(Struct, kw_only=True):
    """One figure of one proxy on one axis; with a `failure` there is no number.

    The reference is the report's, or, when `against` names one, another Symphony beside the first.
    """

    axis: str
    title: str
    peer: str
    metric: str
    unit: str = ""
    value: Spread | None = None
    reference: Spread | None = None
    ratio: Spread | None = None
    target: Target | None = None
    failure: str = ""
    note: str = ""
    against: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None when there is none, or no number."""
        if self.target is None:
            return None
        measured = self.ratio if self.target.of == "ratio" else self.value
        return None if measured is None else measured.median <= self.target.limit


class Machine(Struct, kw_only=True):
    """Where it was measured."""

    processor: str
    cores: int
    memory_mb: int
    kernel: str
    python: str
    openssl: str
    descriptors: int
    load_average: float


class Report(Struct, kw_only=True):
    """A whole run, as `command` began it: without what only says where the report goes."""

    started: str
    seconds: float
    pairs: int
    reference: str
    machine: Machine
    versions: dict[str, str]
    missing: dict[str, str]
    warnings: list[str]
    figures: list[Figure] = field(default_factory=list)
    command: str = ""
