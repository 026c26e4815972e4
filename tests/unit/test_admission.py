"""One connection's admission: two findings in any order, and the first reason of those that hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from symphony.config.snapshot import ProtectionEntry
from symphony.connection.admission import HELLO_GRACE_S, Admission, begin, recount
from symphony.observe.reasons import Reason
from symphony.protection.guard import Guard
from symphony.protection.penalty import SourceLimits, Verdict
from symphony.protection.source_gate import ListenerGate
from symphony.tls.client_hello import ClientHello, parse
from symphony.tls.fingerprint import Fingerprints, ja3, ja4
from tests.support.tls_client import SteppedClient

ADDRESS = b"\x7f\0\0\1"
CELL = 17
REFUSALS = [verdict for verdict in Verdict if verdict not in (Verdict.ADMITTED, Verdict.HELD)]


def hello(name: str | None) -> ClientHello:
    parsed = parse(SteppedClient(name).hello())
    assert isinstance(parsed, ClientHello)
    return parsed


NAMED, NAMELESS = hello("a.test"), hello(None)


class Gate:
    """In the place of the listener's gate."""

    def __init__(self) -> None:
        self.answer: Callable[[Verdict, int], None] | None = None
        self.at_once: Verdict | None = None
        self.released: list[int] = []
        self.held: list[bytes] = []

    def decide(self, key: bytes) -> tuple[Verdict, int] | None:
        assert key == ADDRESS
        return None if self.at_once is None else (self.at_once, CELL)

    def ask(self, key: bytes, answered: Callable[[Verdict, int], None]) -> None:
        assert key == ADDRESS
        self.answer = answered

    def release(self, cell: int) -> None:
        self.released.append(cell)

    def hold(self, key: bytes) -> int:
        self.held.append(key)
        return CELL


class Scene:
    """A connection that notes what becomes of it."""

    def __init__(self, **protection: Any) -> None:
        self.gate = Gate()
        self.guard = Guard(ProtectionEntry(**protection), {})
        self.fingerprints: Fingerprints | None = None
        self.is_over = False
        self.outcome: object = None
        self.waits: list[float] = []
        self.peer = ("127.0.0.1", 4321)
        self.admission: Admission | None = None

    def begin(self) -> None:
        begin(self, self.guard, cast(ListenerGate, self.gate))

    @property
    def admitting(self) -> Admission:
        assert self.admission is not None
        return self.admission

    def let_in(self, hello: ClientHello | None) -> None:
        assert self.outcome in (None, "waiting")
        self.outcome = "in"

    def turn_away(self, reason: Reason, detail: str = "") -> None:
        assert not self.is_over
        self.is_over = True
        self.outcome = reason
        if self.admission is not None:
            self.admission.end()

    def wait_for_limiter(self) -> None:
        self.outcome = "waiting"

    def wait_at_most(self, seconds: float) -> None:
        self.waits.append(seconds)

    def answer(self, verdict: Verdict) -> None:
        assert self.gate.answer is not None
        self.gate.answer(verdict, CELL)


LIMITS = SourceLimits(1.0, 1.0, penalty_s=60.0, max_concurrent=1)
UNBOXED = SourceLimits(1.0, 1.0, max_concurrent=1)


@pytest.mark.parametrize("first", ["hello", "verdict"])
@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize(
    ("seen", "found"),
    [
        (NAMED, None),
        (NAMELESS, Reason.NO_SNI),
        ("listed", Reason.JA3_BLOCKED),
        ("listed4", Reason.JA4_BLOCKED),
    ],
)
@pytest.mark.parametrize("limits", [LIMITS, UNBOXED])
def test_whichever_comes_first_the_reason_is_the_first_in_order(
    first: str, verdict: Verdict, seen: ClientHello | str, found: Reason | None, limits: SourceLimits
) -> None:
    if verdict is Verdict.PENALTY_BOXED and not limits.penalty_s:
        return
    lists: dict[str, Any] = {}
    if isinstance(seen, str):
        lists = (
            {"ja3_blocklist": (ja3(NAMELESS)[1],)}
            if seen == "listed"
            else {"ja4_blocklist": (ja4(NAMELESS),)}
        )
        seen = NAMELESS
    scene = Scene(limits=limits, require_sni=True, **lists)
    scene.begin()
    assert scene.outcome is None
    for step in (first, "verdict" if first == "hello" else "hello"):
        if scene.is_over and step == "hello":
            break
        if step == "hello":
            scene.admitting.read(seen)
        else:
            scene.answer(verdict)
    if verdict is Verdict.PENALTY_BOXED:
        expected: object = Reason.PENALTY_BOXED
    elif found is not None:
        expected = found
    elif verdict in REFUSALS:
        expected = Reason(verdict.value)
    else:
        expected = "in"
    assert scene.outcome == expected
    # What is held is given back, once, by those that do not go on.
    assert scene.gate.released == ([CELL] if verdict is Verdict.HELD and expected != "in" else [])
    scene.admitting.end()
    scene.admitting.end()
    assert scene.gate.released == ([CELL] if verdict is Verdict.HELD else [])


def test_without_a_look_at_the_hello_a_refusal_does_not_wait_for_it() -> None:
    scene = Scene(limits=UNBOXED)
    scene.begin()
    scene.answer(Verdict.RATE_LIMITED)
    assert scene.outcome is Reason.RATE_LIMITED


def test_with_one_it_waits_a_moment() -> None:
    scene = Scene(limits=UNBOXED, require_sni=True)
    scene.begin()
    scene.answer(Verdict.RATE_LIMITED)
    assert scene.outcome is None
    assert scene.waits == [HELLO_GRACE_S]
    assert scene.admitting.unfinished(Reason.CLIENT_SILENT) is Reason.RATE_LIMITED


def test_a_refusal_by_the_hello_waits_only_for_the_box() -> None:
    for limits, outcome in ((LIMITS, "waiting"), (UNBOXED, Reason.NO_SNI)):
        scene = Scene(limits=limits, require_sni=True)
        scene.begin()
        scene.admitting.read(NAMELESS)
        assert scene.outcome == outcome


def test_an_answer_for_a_connection_that_is_over_is_given_back() -> None:
    scene = Scene(limits=LIMITS)
    scene.begin()
    scene.turn_away(Reason.CLIENT_LEFT)
    scene.answer(Verdict.HELD)
    assert scene.outcome is Reason.CLIENT_LEFT
    assert scene.gate.released == [CELL]


@pytest.mark.parametrize("verdict", [Verdict.ADMITTED, Verdict.TOO_MANY_CONNECTIONS])
def test_an_answer_that_comes_at_once(verdict: Verdict) -> None:
    scene = Scene(limits=LIMITS)
    scene.gate.at_once = verdict
    scene.begin()
    if verdict is Verdict.ADMITTED:
        assert scene.outcome is None
        scene.admitting.read(NAMED)
        assert scene.outcome == "in"
    else:
        assert scene.outcome is Reason.TOO_MANY_CONNECTIONS


def test_without_limits_nobody_is_asked() -> None:
    scene = Scene(require_sni=True)
    scene.begin()
    assert scene.gate.answer is None
    scene.admitting.read(NAMED)
    assert scene.outcome == "in"
    assert scene.admitting.unfinished(Reason.CLIENT_SILENT) is Reason.CLIENT_SILENT


def test_lists_fail_closed() -> None:
    scene = Scene(ja4_blocklist=("t",))
    scene.begin()
    assert scene.admitting.unfinished(Reason.CLIENT_SILENT) is Reason.INCOMPLETE_HANDSHAKE
    data = bytearray(SteppedClient("a.test").hello())
    algorithms = data.index(b"\x00\x0d\x00", 80) + 4
    data[algorithms : algorithms + 2] = b"\xff\xff"
    broken = parse(bytes(data))
    assert isinstance(broken, ClientHello)
    scene.admitting.read(broken)
    assert scene.outcome is Reason.MALFORMED_CLIENT_HELLO


def test_connections_that_are_open_already() -> None:
    scene = Scene(limits=LIMITS)
    recount(scene, scene.guard, cast(ListenerGate, scene.gate))
    assert scene.gate.held == [ADDRESS]
    assert scene.admitting.is_settled
    scene.admitting.end()
    assert scene.gate.released == [CELL]


def test_connections_that_are_counted_by_another_key_are_counted_anew() -> None:
    scene = Scene(limits=LIMITS)
    scene.begin()
    recount(scene, scene.guard, cast(ListenerGate, scene.gate))
    assert scene.gate.held == [], "it is still to be decided"
    scene.answer(Verdict.HELD)
    recount(scene, scene.guard, cast(ListenerGate, scene.gate))
    assert (scene.gate.released, scene.gate.held) == ([CELL], [ADDRESS])


@pytest.mark.parametrize("verdict", [Verdict.ADMITTED, Verdict.RATE_LIMITED])
def test_clients_without_a_hello(verdict: Verdict) -> None:
    scene = Scene(limits=UNBOXED)
    scene.begin()
    scene.admitting.expect_nothing()
    assert scene.outcome == "waiting"
    scene.answer(verdict)
    assert scene.outcome == ("in" if verdict is Verdict.ADMITTED else Reason.RATE_LIMITED)
    at_once = Scene(limits=UNBOXED)
    at_once.gate.at_once = Verdict.ADMITTED
    at_once.begin()
    at_once.admitting.expect_nothing()
    assert at_once.outcome == "in"
