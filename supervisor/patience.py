"""How long the supervisor waits for what, and how it notices that it did not run itself."""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.node import Group, Leaf, State
from supervisor.spec import ChildSpec

KILL_PATIENCE_S = 5.0
"""How long after SIGKILL a process that is not gone (stuck in the kernel) is let go of."""
LAST_WORDS_S = 2.0
"""How long a child that said why it cannot run may take to end."""
LEAST_GRACE_S = 0.5
"""What a child is given whose turn to stop comes when the time for the whole stop is over."""
SAME_STOP_S = 0.1
"""Requests to stop so close together are one: timeout(1) signals the process, and then its whole group."""
PULSE_S = 0.5
"""How often the supervisor looks at the time while it waits for anything."""
LATE_S = 0.25
"""How much later than it meant to the supervisor runs before the time it lost is given to the children."""
WORTH_REPORTING_S = 1.0
"""How much lost time is worth a log line."""
_MARGIN_S = 0.5


def stop_times(spec: ChildSpec, remaining_s: float | None) -> tuple[float, float]:
    """Return the grace that a child is told, and after how many seconds it is killed; both 0 for at once.

    The grace is the shorter one, by half a second or half of `shutdown_s`: a child that uses up all it was given
    and then ends must not be killed while it does. `remaining_s` is what is left for stopping everything.
    """
    margin = min(_MARGIN_S, spec.shutdown_s / 2)
    grace = spec.shutdown_s - margin
    if remaining_s is not None:
        grace = min(grace, max(remaining_s, LEAST_GRACE_S))
    return grace, grace + margin


def next_due(root: Group, now: float, advanced_at: float) -> float | None:
    """Return when the first deadline, silence or back-off in the tree is over; None when nothing is awaited.

    While something runs against a child it is PULSE_S from `now` at most. A node that was due at `advanced_at`,
    when all groups were looked at, is held by something else and must not make the timer spin.
    """
    times: list[float] = []
    for node in root.walk():
        if node.state in (State.BACKING_OFF, State.WAITING) and node.not_before > advanced_at:
            times.append(node.not_before)
        elif isinstance(node, Leaf):
            silent_at = node.silent_at if node.state is State.RUNNING else None
            awaited = [at for at in (node.deadline, silent_at) if at is not None]
            if awaited:
                times.extend((*awaited, now + PULSE_S))
    return min(times, default=None)


def forgive(leaves: Iterable[Leaf], lost: float) -> None:
    """Give every child `lost` seconds more for all that it is awaited to do."""
    for leaf in leaves:
        if leaf.heard_at is not None:
            leaf.heard_at += lost
        if leaf.deadline is not None:
            leaf.deadline += lost


class Vigil:
    """Measures for how long this process was kept from running, by SIGSTOP, a debugger or an overloaded machine.

    In that time children may have stood still too, or spoken without being heard; it does not count against them.
    """

    __slots__ = ("_awaited",)

    def __init__(self) -> None:
        self._awaited: float | None = None

    def expect(self, at: float | None) -> None:
        """Remember that the next thing happens at `at` or before; None for nobody knows when."""
        self._awaited = at

    def lost(self, now: float) -> float:
        """Return how many seconds were lost before `now`; 0 when asked again before the next :meth:`expect`."""
        late = 0.0 if self._awaited is None else now - self._awaited
        self._awaited = None
        return late if late > LATE_S else 0.0
