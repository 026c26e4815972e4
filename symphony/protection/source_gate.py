"""An acceptor's questions whether a source may connect once more, answered with or without the rate limiter.

While the rate limiter answers, its word counts, and it is exact over all acceptors. When it is down or does not answer
in time, this acceptor decides alone, and never waits:

- Buckets: it keeps buckets of its own with its share of the limits, at least one connection each. They are charged with
  whatever is let in, also by the limiter's word, so that a source which has used up its limits finds little in them.
- The penalty box: a source that was told to be in it is remembered.
- Connections open at once: counted in shared memory (:mod:`symphony.protection.hold_cells`), never more than allowed.

What was decided alone is told to the limiter as soon as it listens, and counts there as if it had been asked; what was
let in beyond a source's limits is owed. So over an outage all acceptors together let in what the limiter would have and
at most one burst more, or one connection each, and in the long run not even that.

A source that was refused is remembered for as long as that is certain to go on, one second at most, and is then not
asked for: an attack costs the acceptor a few microseconds for each connection and the limiter next to nothing. What a
source in the box tries meanwhile is told a few times a second, so that it stays in while it goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from symphony.mailbox.client import MailboxClient
from symphony.messages.limiter import (
    Admit,
    Attempts,
    Configure,
    Count,
    Hold,
    Holding,
    LimiterReply,
    Release,
    Ruling,
)
from symphony.protection.hold_cells import SharedHolds
from symphony.protection.limiter import ANSWER_WITHIN_S
from symphony.protection.penalty import SourceLimits, Verdict
from symphony.protection.source_store import SourceStore
from symphony.protection.sources import SourceTable

REMEMBER_S = 1.0
SETTLED_AFTER_S = 3.0
"""So long after a break the limiter has heard from all acceptors, or those that hung have been replaced."""

REPORT_EVERY_S = 0.25
_OWN_SOURCES = 131_072
_SHUT_SOURCES = 16_384
_COUNTED_SOURCES = 65_536
_IN_ONE_MESSAGE = 2000
_ADMITTED = Verdict.ADMITTED
_HELD = Verdict.HELD
_BUCKETS = frozenset({Verdict.RATE_LIMITED, Verdict.SUSTAINED_LIMITED})


class SourceGate:
    """One per acceptor.

    `acceptors` processes share the limits; `holds` are the open connections of all of them. `on_alone` is called for
    each connection that is decided on because there was no answer.
    """

    def __init__(
        self,
        client: MailboxClient,
        acceptors: int,
        holds: SharedHolds,
        on_alone: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.holds = holds
        self.on_alone = on_alone
        self.clock = clock
        self.own = SourceTable(SourceStore(_OWN_SOURCES), clock())
        self._acceptors = acceptors
        self._version = 0
        self._listeners: dict[str, ListenerGate] = {}
        self._counted: dict[tuple[str, bytes], _Tally] = {}
        self._unsent: list[Struct] = []
        self._reporting: asyncio.TimerHandle | None = None
        client.on_up = self._connected
        client.on_down = self._doubt
        client.on_late = self._give_back

    def listener(self, id: str) -> ListenerGate:
        """The gate of one listener; it stays the same while limits change."""
        gate = self._listeners.get(id)
        if gate is None:
            gate = self._listeners[id] = ListenerGate(self, id)
            self.own.configure(id, SourceLimits(), self.clock())
        return gate

    def configure(self, version: int, limits: Mapping[str, SourceLimits]) -> None:
        """Take the limits of all listeners, as of snapshot `version`; what is known of sources stays."""
        self._version = version
        for id, each in limits.items():
            gate = self.listener(id)
            if each != gate.limits:
                gate.limits = each
                gate.shut.clear()
                self.own.configure(id, share(each, self._acceptors), self.clock())
        self.send(self._configuration())

    def send(self, message: Struct) -> None:
        """Send what the limiter must not miss; while it is away, :meth:`_connected` makes up for it."""
        if not self.client.cast(message) and self.client.connected:
            self._unsent.append(message)
            self._report_later()

    def count(self, listener: str, key: bytes, now: float, let_in: bool) -> None:
        """Note a connection that was decided on without the limiter."""
        tally = self._counted.get((listener, key))
        if tally is None:
            if len(self._counted) >= _COUNTED_SOURCES:
                return
            tally = self._counted[listener, key] = _Tally(now)
            self._report_later()
        tally.times += 1
        tally.let_in += let_in
        tally.last = now

    def close(self) -> None:
        """Tell what is left to be told."""
        if self._reporting is not None:
            self._reporting.cancel()
        self._report()

    def _connected(self) -> None:
        """Tell a limiter that may know nothing what it has to know, before anything is asked of it."""
        self._doubt()
        self._unsent.clear()
        if self._version:
            self.send(self._configuration())
        for gate in self._listeners.values():
            held = tuple(gate.held.items())
            for at in range(0, len(held), _IN_ONE_MESSAGE):
                self.send(Hold(gate.id, held[at : at + _IN_ONE_MESSAGE]))
        self._report()

    def _doubt(self) -> None:
        self.holds.doubt_until(self.clock() + SETTLED_AFTER_S)

    def _configuration(self) -> Configure:
        return Configure(self._version, tuple((gate.id, gate.limits) for gate in self._listeners.values()))

    def _give_back(self, message: LimiterReply) -> None:
        """Take an answer that came too late: somebody has decided alone meanwhile, and has told so."""
        if type(message) is Holding:
            self.send(Release(message.listener, message.key))

    def _report_later(self) -> None:
        if self._reporting is None:
            self._reporting = asyncio.get_running_loop().call_later(REPORT_EVERY_S, self._report)

    def _report(self) -> None:
        self._reporting = None
        if not self.client.connected:
            return  # told when it is connected
        unsent, self._unsent = self._unsent, []
        for message in unsent:
            self.send(message)
        counted, self._counted = self._counted, {}
        by_listener: dict[str, list[Attempts]] = {}
        for (listener, key), tally in counted.items():
            attempts = Attempts(key, tally.times, tally.let_in, tally.first, tally.last)
            by_listener.setdefault(listener, []).append(attempts)
        for listener, found in by_listener.items():
            for at in range(0, len(found), _IN_ONE_MESSAGE):
                self.send(Count(listener, tuple(found[at : at + _IN_ONE_MESSAGE])))


class _Tally:
    """What a source tried that the limiter was not asked about."""

    __slots__ = ("first", "last", "let_in", "times")

    def __init__(self, now: float) -> None:
        self.times = self.let_in = 0
        self.first = self.last = now


class ListenerGate:
    """One listener's part of the gate. `limits` are those of its present configuration.

    `held` is how many connections each source has open here. `shut` maps a source that was refused to the time when
    to ask again, the time up to which it is known to be refused, and why.
    """

    __slots__ = ("_gate", "held", "id", "limits", "shut")

    def __init__(self, gate: SourceGate, id: str) -> None:
        self._gate = gate
        self.id = id
        self.limits = SourceLimits()
        self.held: dict[bytes, int] = {}
        self.shut: dict[bytes, tuple[float, float, Verdict]] = {}

    def refusal(self, key: bytes) -> Verdict | None:
        """Why a source is certain to be refused, None when it has to be asked for."""
        found = self.shut.get(key)
        if found is None:
            return None
        ask_at, until, verdict = found
        now = self._gate.clock()
        if now < ask_at or (now < until and not self._gate.client.connected):
            if verdict is Verdict.PENALTY_BOXED:
                self._gate.count(self.id, key, now, False)
            return verdict
        del self.shut[key]
        return None

    def ask(self, key: bytes, callback: Callable[[Any], None]) -> None:
        """Ask the limiter; `callback` gets what :meth:`settle` takes, within 50 ms, or before this returns."""
        self._gate.client.request(Admit(self.id, key), callback, ANSWER_WITHIN_S)

    def settle(self, key: bytes, reply: LimiterReply | None, remember: bool) -> Verdict:
        """Return what becomes of the connection that was asked for.

        After HELD, :meth:`release` must follow. `remember` is whether a refusal by a bucket may be told to the
        source's next connections as well, before anything is known of them.
        """
        kind = type(reply)
        if kind is Holding:
            return self._hold_if_sure(key)
        if kind is not Ruling:
            return self._decide_alone(key)
        assert isinstance(reply, Ruling)
        verdict = reply.verdict
        if verdict is _ADMITTED:
            self._gate.own.charge(self.id, key, 1.0, self._gate.clock())
        else:
            self._remember(key, verdict, reply.until, remember)
        return verdict

    def hold(self, key: bytes) -> None:
        """Count a connection as open that is so already, whatever the limit."""
        self._take(key)
        self._gate.send(Hold(self.id, ((key, 1),)))

    def release(self, key: bytes) -> None:
        """A connection that was HELD is over."""
        count = self.held[key] - 1
        if count:
            self.held[key] = count
        else:
            del self.held[key]
        self._gate.holds.give_back(self.id, key)
        self._gate.send(Release(self.id, key))

    def _take(self, key: bytes) -> None:
        self._gate.holds.take(self.id, key)
        self.held[key] = self.held.get(key, 0) + 1

    def _hold_if_sure(self, key: bytes) -> Verdict:
        gate = self._gate
        now = gate.clock()
        self._take(key)
        if gate.holds.in_doubt(now) and gate.holds.count(self.id, key) > self.limits.max_concurrent > 0:
            self.release(key)
            return Verdict.TOO_MANY_CONNECTIONS
        gate.own.charge(self.id, key, 1.0, now)
        return _HELD

    def _decide_alone(self, key: bytes) -> Verdict:
        gate = self._gate
        gate.on_alone()
        now = gate.clock()
        verdict = gate.own.decide(self.id, key, None, now)
        if verdict is _ADMITTED and self.limits.max_concurrent:
            verdict = self._hold_alone(key, now)
        gate.count(self.id, key, now, verdict is _ADMITTED or verdict is _HELD)
        return verdict

    def _hold_alone(self, key: bytes, now: float) -> Verdict:
        gate = self._gate
        gate.holds.doubt_until(now + SETTLED_AFTER_S)  # before it is counted, so that others look
        self._take(key)
        gate.send(Hold(self.id, ((key, 1),)))
        if gate.holds.count(self.id, key) > self.limits.max_concurrent:
            self.release(key)
            return Verdict.TOO_MANY_CONNECTIONS
        return _HELD

    def _remember(self, key: bytes, verdict: Verdict, until: float, buckets: bool) -> None:
        if verdict in _BUCKETS:
            if self.limits.penalty_s:
                verdict = Verdict.PENALTY_BOXED  # from now on
            elif not buckets:
                return
        elif verdict is not Verdict.PENALTY_BOXED:
            return
        now = self._gate.clock()
        if until > now:
            if len(self.shut) >= _SHUT_SOURCES:
                self._forget_some(now)
            if len(self.shut) < _SHUT_SOURCES:
                self.shut[key] = min(until, now + REMEMBER_S), until, verdict

    def _forget_some(self, now: float) -> None:
        """Make room: no source has to be remembered, it is only dearer to ask for it."""
        self.shut = {key: found for key, found in self.shut.items() if found[0] > now}


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
