"""What the dashboard remembers: the last states of an instance, and the rates between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise

from msgspec import Struct

from symphony.observe.histogram import Histogram
from symphony.observe.record_totals import Totals
from symphony.observe.telemetry import NO_TOTALS, Telemetry

KEPT = 300
"""States kept: five minutes of one each second."""


class Flow(Struct, frozen=True):
    """Rates a second of one route or upstream, with what it holds now."""

    key: str
    active: int
    connections: float
    failures: float
    bytes_up: float
    bytes_down: float


class History:
    """States in the order in which they came. A restarted instance begins a new history."""

    def __init__(self) -> None:
        self._states: deque[Telemetry] = deque(maxlen=KEPT)

    def add(self, telemetry: Telemetry) -> None:
        """Take in the present state."""
        if self._states and telemetry.totals.accepted < self._states[-1].totals.accepted:
            self._states.clear()
        self._states.append(telemetry)

    def __len__(self) -> int:
        return len(self._states)

    @property
    def now(self) -> Telemetry | None:
        """The latest state."""
        return self._states[-1] if self._states else None

    def _before(self) -> Telemetry | None:
        return self._states[-2] if len(self._states) > 1 else None

    def _seconds(self) -> float:
        before, now = self._before(), self.now
        if before is None or now is None:
            return 0.0
        return max(now.at - before.at, 1e-3)

    def rate(self, value: Callable[[Telemetry], float]) -> float:
        """How fast a total has grown of late, a second."""
        before, now = self._before(), self.now
        if before is None or now is None:
            return 0.0
        return max(0.0, value(now) - value(before)) / self._seconds()

    def series(self, value: Callable[[Telemetry], float], points: int) -> list[float]:
        """The last `points` rates of a total, oldest first."""
        states = list(self._states)[-points - 1 :]
        return [
            max(0.0, value(later) - value(earlier)) / max(later.at - earlier.at, 1e-3)
            for earlier, later in pairwise(states)
        ]

    def levels(self, value: Callable[[Telemetry], float], points: int) -> list[float]:
        """The last `points` values of a gauge, oldest first."""
        return [value(state) for state in list(self._states)[-points:]]

    def cpu(self, name: str) -> float | None:
        """What part of one CPU an actor has used of late; None when that is not known."""
        before, now = self._before(), self.now
        if before is None or now is None:
            return None
        used = {actor.name: (actor.pid, actor.cpu_s) for actor in before.actors}
        for actor in now.actors:
            if actor.name == name and used.get(name, (0, 0.0))[0] == actor.pid and actor.pid:
                return max(0.0, actor.cpu_s - used[name][1]) / self._seconds()
        return None

    def lately(self, histogram: Callable[[Telemetry], Histogram], seconds: float = 60.0) -> Histogram:
        """What a histogram has counted in the last `seconds`; all of it while there is no earlier state."""
        now = self.now
        if now is None:
            return Histogram()
        base = None
        for state in self._states:
            if state.at >= now.at - seconds:
                break
            base = state
        if base is None and len(self._states) > 1:
            base = self._states[0]
        return histogram(now) - histogram(base) if base is not None else histogram(now)

    def flows(
        self, records: Callable[[Telemetry], dict[str, Totals]], keys: Iterable[str] = ()
    ) -> list[Flow]:
        """Every route or upstream that was ever used, and those of `keys` too, in the order of their names."""
        before, now = self._before(), self.now
        if now is None:
            return []
        earlier = records(before) if before is not None else {}
        seconds = self._seconds()
        return [
            _flow(key, totals, earlier.get(key, NO_TOTALS if before is not None else totals), seconds)
            for key, totals in sorted({**dict.fromkeys(keys, NO_TOTALS), **records(now)}.items())
        ]


def _flow(key: str, now: Totals, before: Totals, seconds: float) -> Flow:
    def rate(later: int, earlier: int) -> float:
        return max(0, later - earlier) / seconds if seconds else 0.0

    return Flow(
        key=key,
        active=now.active,
        connections=rate(now.connections, before.connections),
        failures=rate(now.failures, before.failures),
        bytes_up=rate(now.bytes_up, before.bytes_up),
        bytes_down=rate(now.bytes_down, before.bytes_down),
    )
