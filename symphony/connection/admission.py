"""One connection's way past its listener's guard.

Two things are found out: what the ClientHello says, which the client may send when it likes, and what the source may
do, which is nearly always known at once, and within 50 ms otherwise. Whichever comes last decides. When both refuse,
the reason is the one that comes first in this order: penalty box, fingerprints, server name, buckets, connections open
at once.

A refusal ends the connection as soon as nothing that comes before it can still be found. A source that is out of tokens
is not given all the time of a handshake for its ClientHello, though: it has :data:`HELLO_GRACE_S`.
"""

from __future__ import annotations

from typing import Any, Protocol

from symphony.observe.reasons import Reason
from symphony.protection.cidr import pack_address, source_key
from symphony.protection.guard import Guard, Standing
from symphony.protection.penalty import Verdict
from symphony.protection.source_gate import ListenerGate
from symphony.tls.client_hello import ClientHello, MalformedClientHello
from symphony.tls.fingerprint import Fingerprints

HELLO_GRACE_S = 0.1

_ADMITTED = Verdict.ADMITTED
_HELD = Verdict.HELD
_BOXED = Verdict.PENALTY_BOXED
# Names of the module: looking an enumeration's member up costs more than comparing it.
_ALLOWED = Standing.ALLOWED
_UNLISTED = Standing.UNLISTED
_REFUSED = {Standing.REFUSED: Reason.CIDR_BLOCKED, Standing.SYSTEM_REFUSED: Reason.ASN_BLOCKED}
_REASONS = {verdict: Reason(verdict.value) for verdict in Verdict if verdict not in (_ADMITTED, _HELD)}


class Guarded(Protocol):
    """A connection, as admission sees it. `peer` is the client's address; `admission` is kept for it."""

    peer: Any
    admission: Admission | None
    fingerprints: Fingerprints | None

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""

    def let_in(self, hello: ClientHello | None) -> None:
        """Go on, with the ClientHello where there is one."""

    def turn_away(self, reason: Reason, detail: str = "") -> None:
        """End."""

    def wait_for_limiter(self) -> None:
        """Watch nothing: what the source may do has to be known first."""

    def wait_at_most(self, seconds: float) -> None:
        """End when the ClientHello does not come within `seconds`."""


def begin(connection: Guarded, guard: Guard, sources: ListenerGate) -> None:
    """Begin with what the client's address says; the connection may be over before this returns."""
    address = pack_address(connection.peer[0])
    if guard.lists:
        standing = guard.standing(address)
        if standing is not _UNLISTED:
            if standing is not _ALLOWED:
                connection.turn_away(_REFUSED[standing])
            return
    if guard.limited:
        key = address if len(address) == 4 else source_key(address, guard.ipv6_prefix)
        decision = sources.decide(key)
        if decision is not None and decision[0] is _BOXED:
            connection.turn_away(Reason.PENALTY_BOXED)
            return
        admission = connection.admission = Admission(connection, guard, sources, None)
        if decision is None:
            sources.ask(key, admission.answered)
        else:
            admission.answered(*decision)
    elif guard.reads:
        connection.admission = Admission(connection, guard, sources, _ADMITTED)


def recount(connection: Guarded, guard: Guard, sources: ListenerGate) -> None:
    """Count a connection as open that was let in before `guard`, which limits how many are."""
    if connection.admission is not None:
        if not connection.admission.is_settled:
            return
        connection.admission.end()
    address = pack_address(connection.peer[0])
    if guard.standing(address) is not _ALLOWED:
        connection.admission = Admission(connection, guard, sources, None)
        connection.admission.hold(source_key(address, guard.ipv6_prefix))


class Admission:
    """What is known so far of a connection that is on no list of networks."""

    __slots__ = (
        "_cell",
        "_connection",
        "_guard",
        "_hello",
        "_refusal",
        "_sources",
        "_verdict",
        "_waits",
    )

    def __init__(
        self, connection: Guarded, guard: Guard, sources: ListenerGate, verdict: Verdict | None
    ) -> None:
        """`verdict` is on the source, None while there is none."""
        self._connection = connection
        self._guard = guard
        self._sources = sources
        self._cell = -1
        self._verdict = verdict
        self._hello: ClientHello | None = None
        self._refusal: Reason | None = None
        self._waits = False

    @property
    def is_settled(self) -> bool:
        """Whether the source is let in."""
        return self._verdict is _ADMITTED or self._verdict is _HELD

    def hold(self, key: bytes) -> None:
        """Count as open, whatever the limit."""
        self._cell = self._sources.hold(key)
        self._verdict = _HELD

    def expect_nothing(self) -> None:
        """Let in, turn away or make wait a client that sends no ClientHello."""
        self._decide(None, None)

    def read(self, hello: ClientHello) -> None:
        """Take the ClientHello; the connection is let in, turned away or made to wait."""
        refusal = None
        if self._guard.reads:
            found = self._connection.fingerprints = Fingerprints(hello)
            try:
                refusal = self._guard.judge(hello, found)
            except MalformedClientHello as error:
                self._connection.turn_away(Reason.MALFORMED_CLIENT_HELLO, str(error))
                return
        if refusal is None and (self._verdict is _HELD or self._verdict is _ADMITTED):
            self._connection.let_in(hello)
        else:
            self._decide(hello, refusal)

    def _decide(self, hello: ClientHello | None, refusal: Reason | None) -> None:
        verdict = self._verdict
        if verdict is None and (refusal is None or self._guard.boxes):
            self._hello, self._refusal, self._waits = hello, refusal, True
            self._connection.wait_for_limiter()
        elif refusal is not None:
            self._connection.turn_away(refusal)
        elif self.is_settled:
            self._connection.let_in(hello)
        else:
            self._turn_away()

    def unfinished(self, reason: Reason) -> Reason:
        """Why the connection ends when its ClientHello never becomes whole, for want of a better reason."""
        if self._verdict in _REASONS:
            return _REASONS[self._verdict]
        return Reason.INCOMPLETE_HANDSHAKE if self._guard.compares else reason

    def end(self) -> None:
        """The connection is over, or was never let in."""
        if self._verdict is _HELD:
            self._verdict = None
            self._sources.release(self._cell)

    def answered(self, verdict: Verdict, cell: int) -> None:
        """Take what is decided of the source; the connection may be let in or turned away."""
        connection, guard = self._connection, self._guard
        self._verdict, self._cell = verdict, cell
        if connection.is_over:
            self.end()
        elif self.is_settled:
            hello, self._hello = self._hello, None
            if self._refusal is not None:
                connection.turn_away(self._refusal)
            elif self._waits:
                connection.let_in(hello)
        elif verdict is Verdict.PENALTY_BOXED or self._waits or not guard.reads:
            self._turn_away()
        else:
            connection.wait_at_most(HELLO_GRACE_S)

    def _turn_away(self) -> None:
        assert self._verdict is not None, "only a verdict refuses"
        boxed = self._verdict is Verdict.PENALTY_BOXED
        reason = None if boxed else self._refusal
        self._connection.turn_away(reason or _REASONS[self._verdict])
