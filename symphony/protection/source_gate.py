"""An acceptor's way to find out whether a source may connect once more.

It decides itself, by what all acceptors know together in shared memory (:mod:`symphony.protection.sources`): nobody is
asked and nobody has to be woken, which would cost more than all the rest of the checks. So it makes no difference to
sources whether the rate limiter is there.

What is known of a source is guarded by a lock. It is free again within microseconds, or at once when its holder is
killed; but a holder can be stopped, or be kept from running by others. A connection then waits, 45 ms at most, and
after that this acceptor decides alone:

- By what can be read without the lock: who is in the box, has no token or has too much open is refused.
- Otherwise by buckets of its own, which have its share of the limits, at least one connection each.
- Connections open at once are counted in any case; where that is not possible, nobody is let in.

What was decided alone is made up for as soon as the lock is to be had, as if it had been decided under it; what was let
in beyond a source's limits is owed. So all acceptors together let in what they may and at most one burst more, or one
connection each, and in the long run not even that.

The rate limiter is told which sources have as much open as they may have, so that it can tell who is refused for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from structlog import get_logger

from symphony.mailbox.client import MailboxClient
from symphony.messages.limiter import AtLimit, Configure
from symphony.protection.penalty import SourceLimits, Verdict
from symphony.protection.source_store import SourceStore
from symphony.protection.sources import NO_CELL, Decision, SourceTable, UnknownListener

WAIT_AT_MOST_S = 0.045
RETRY_S = 0.001
REPORT_EVERY_S = 0.25
_OWN_SOURCES = 16_384
_COUNTED_SOURCES = 65_536
_HOLD_TRIES = 20
_ADMITTED = Verdict.ADMITTED
_HELD = Verdict.HELD
_NO_ROOM: Decision = Verdict.TABLE_FULL, NO_CELL

Answered = Callable[[Verdict, int], None]
"""Takes what becomes of a connection, and after HELD the cell to release."""

log = get_logger("sources")


class SourceGate:
    """One per acceptor.

    `acceptors` processes share the limits; `table` is what they know of sources. `on_alone` is called for each
    connection that is decided on alone.
    """

    def __init__(
        self,
        client: MailboxClient,
        acceptors: int,
        table: SourceTable,
        on_alone: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.table = table
        self.on_alone = on_alone
        self.clock = clock
        self.own = SourceTable(SourceStore(_OWN_SOURCES))
        self._acceptors = acceptors
        self._version = 0
        self._listeners: dict[str, ListenerGate] = {}
        self._unapplied: dict[str, SourceLimits] = {}
        self._questions: deque[_Question] = deque()
        self._counted: dict[tuple[str, bytes], _Tally] = {}
        self._told: dict[str, tuple[bytes, ...]] = {}
        self._retrying: asyncio.TimerHandle | None = None
        self._reporting: asyncio.TimerHandle | None = None
        client.on_up = self._connected

    def listener(self, id: str) -> ListenerGate:
        """The gate of one listener; it stays the same while limits change."""
        gate = self._listeners.get(id)
        if gate is None:
            gate = self._listeners[id] = ListenerGate(self, id, self.table)
            self.own.configure(id, SourceLimits(), self.clock())
        return gate

    def configure(self, version: int, limits: Mapping[str, SourceLimits]) -> None:
        """Take the limits of all listeners, as of snapshot `version`; what is known of sources stays."""
        self._version = version
        for id, each in limits.items():
            gate = self.listener(id)
            if each != gate.limits:
                gate.limits = each
                self.own.configure(id, share(each, self._acceptors), self.clock())
            self._unapplied[id] = each
        self._apply()
        self.client.cast(self._configuration())

    def ask_later(self, gate: ListenerGate, key: bytes, answered: Answered) -> None:
        """Ask again until there is an answer."""
        self._questions.append(_Question(gate, key, answered, self.clock() + WAIT_AT_MOST_S))
        self._retry_later()

    def count(self, listener: str, key: bytes, now: float, let_in: bool) -> None:
        """Note a connection that was decided on alone."""
        tally = self._counted.get((listener, key))
        if tally is None:
            if len(self._counted) >= _COUNTED_SOURCES:
                return
            tally = self._counted[listener, key] = _Tally(now)
        tally.times += 1
        tally.let_in += let_in
        tally.last = now
        self.report_later()

    def report_later(self) -> None:
        """See to it that what has changed is told."""
        if self._reporting is None:
            self._reporting = asyncio.get_running_loop().call_later(REPORT_EVERY_S, self._report)

    def close(self) -> None:
        """Make up for what was decided alone, and answer nobody any more."""
        for timer in (self._reporting, self._retrying):
            if timer is not None:
                timer.cancel()
        self._questions.clear()
        self._make_up()

    def _apply(self) -> None:
        """Let the limits hold for all, as far as the locks are to be had."""
        for id in tuple(self._unapplied):
            if self.table.configure(id, self._unapplied[id], self.clock(), self._version):
                del self._unapplied[id]
        if self._unapplied:
            self._retry_later()

    def _retry_later(self) -> None:
        if self._retrying is None:
            self._retrying = asyncio.get_running_loop().call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        self._retrying = None
        self._apply()
        for _ in range(len(self._questions)):
            question = self._questions.popleft()
            decision = question.gate.decide(question.key)
            if decision is None:
                if self.clock() < question.until:
                    self._questions.append(question)
                    continue
                decision = question.gate.decide_alone(question.key)
            try:
                question.answered(*decision)
            except Exception:  # others wait for theirs
                log.exception("answer_not_taken", listener=question.gate.id)
        if self._questions:
            self._retry_later()

    def _connected(self) -> None:
        """Tell a limiter that may know nothing all that it is to know."""
        if self._version:
            self.client.cast(self._configuration())
        self._told.clear()
        self._tell()

    def _configuration(self) -> Configure:
        return Configure(self._version, tuple((gate.id, gate.limits) for gate in self._listeners.values()))

    def _report(self) -> None:
        self._reporting = None
        self._make_up()
        self._tell()
        if self._counted or self.table.full:
            self.report_later()

    def _make_up(self) -> None:
        for (listener, key), tally in tuple(self._counted.items()):
            try:
                if self.table.count(listener, key, tally.times, tally.let_in, tally.first, tally.last):
                    del self._counted[listener, key]
            except UnknownListener:
                pass  # its limits are still to be applied

    def _tell(self) -> None:
        at_limit = self.table.at_limit()
        for id in self._listeners:
            keys = at_limit.get(id, ())
            if keys != self._told.get(id, ()) and self.client.cast(AtLimit(id, keys)):
                self._told[id] = keys


@dataclass(slots=True)
class _Question:
    """A connection that nobody could decide on yet."""

    gate: ListenerGate
    key: bytes
    answered: Answered
    until: float


class _Tally:
    """What a source tried that was decided on alone."""

    __slots__ = ("first", "last", "let_in", "times")

    def __init__(self, now: float) -> None:
        self.times = self.let_in = 0
        self.first = self.last = now


class ListenerGate:
    """One listener's part of the gate. `limits` are those of its present configuration.

    `release` takes the cell of a connection that was HELD and is over.
    """

    __slots__ = ("_clock", "_full", "_gate", "_judge", "id", "limits", "release")

    def __init__(self, gate: SourceGate, id: str, table: SourceTable) -> None:
        self._gate = gate
        self._judge = table.decide
        self._clock = gate.clock
        self._full = table.full
        self.release = table.release
        self.id = id
        self.limits = SourceLimits()

    def ask(self, key: bytes, answered: Answered) -> None:
        """Call `answered` with what becomes of one more connection: before this returns, or within 50 ms.

        After HELD, `release` must follow.
        """
        decision = self.decide(key)
        if decision is None:
            self._gate.ask_later(self, key, answered)
        else:
            answered(*decision)

    def decide(self, key: bytes) -> Decision | None:
        """Decide, unless that has to wait."""
        try:
            decision = self._judge(self.id, key, self._clock())
        except UnknownListener:
            return None  # its limits are still to be applied
        if self._full:
            self._gate.report_later()
        return decision

    def decide_alone(self, key: bytes) -> Decision:
        """Decide without the lock."""
        gate = self._gate
        gate.on_alone()
        now = gate.clock()
        try:
            decision = gate.table.decide_unlocked(self.id, key, now)
        except UnknownListener:
            decision = _NO_ROOM if self.limits.max_concurrent else (_ADMITTED, NO_CELL)
        verdict, cell = decision
        if verdict is _ADMITTED or verdict is _HELD:
            own, _ = gate.own.decide(self.id, key, now) or _NO_ROOM
            if own is not _ADMITTED:
                gate.table.release(cell)
                decision = own, NO_CELL
        gate.count(self.id, key, now, decision[0] is verdict and verdict in (_ADMITTED, _HELD))
        return decision

    def hold(self, key: bytes) -> int:
        """Count a connection as open that is so already, whatever the limit; return its cell."""
        gate = self._gate
        for _ in range(_HOLD_TRIES):
            cell = gate.table.hold(self.id, key, gate.clock())
            if cell is not None:
                break
            time.sleep(
                RETRY_S / 4
            )  # only after a change of the limits, and if somebody does not give a lock back
        else:
            cell = NO_CELL
        if self._full:
            gate.report_later()
        return cell


def share(limits: SourceLimits, acceptors: int) -> SourceLimits:
    """What one of so many acceptors may let in alone. Connections open at once are no matter of shares.

    Who exceeds a share has not exceeded the limit: out of the box after a second.
    """
    return SourceLimits(
        limits.per_second / acceptors,
        max(1.0, limits.per_second_burst / acceptors) if limits.per_second else 0.0,
        limits.per_minute / acceptors,
        max(1.0, limits.per_minute_burst / acceptors) if limits.per_minute else 0.0,
        min(limits.penalty_s, 1.0),
    )
