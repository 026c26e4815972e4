"""What a listener checks without asking anybody, and how refusals are told."""

from __future__ import annotations

import pytest

from symphony.config.snapshot import ProtectionEntry
from symphony.messages.events import Blocked, Event
from symphony.observe.block_events import EVENTS_PER_SECOND, BlockEvents
from symphony.observe.events import EventHub
from symphony.observe.reasons import Reason
from symphony.protection.cidr import CidrSet, pack_address
from symphony.protection.guard import Guard, Standing, make_guard
from symphony.tls.client_hello import ClientHello, MalformedClientHello, parse
from symphony.tls.fingerprint import Fingerprints, ja3, ja4
from tests.support.tls_client import SteppedClient


def hello(name: str | None = "a.test") -> ClientHello:
    parsed = parse(SteppedClient(name).hello())
    assert isinstance(parsed, ClientHello)
    return parsed


def guard(**keys: object) -> Guard:
    made = make_guard(
        ProtectionEntry(**keys),  # type: ignore[arg-type]
        {"in": CidrSet(["127.0.0.0/8", "::1"]), "out": CidrSet(["127.0.1.0/24", "192.0.2.0/24"])},
    )
    assert made is not None
    return made


def test_no_protection_is_no_guard() -> None:
    assert make_guard(ProtectionEntry(), {}) is None


def test_the_allowlist_has_the_last_word() -> None:
    both = guard(allowlist="out", blocklist="in")
    assert both.standing(pack_address("127.0.1.9")) is Standing.ALLOWED
    assert both.standing(pack_address("127.0.2.9")) is Standing.REFUSED
    assert both.standing(pack_address("::1")) is Standing.REFUSED
    assert both.standing(pack_address("192.0.2.1")) is Standing.ALLOWED
    assert both.standing(pack_address("::ffff:127.0.1.9")) is Standing.ALLOWED
    assert both.standing(pack_address("2001:db8::1")) is Standing.UNLISTED
    assert guard(require_sni=True).standing(pack_address("127.0.0.1")) is Standing.UNLISTED
    systems = guard(allowlist="out", asn_networks="in")
    assert systems.standing(pack_address("127.0.2.9")) is Standing.SYSTEM_REFUSED
    assert systems.standing(pack_address("127.0.1.9")) is Standing.ALLOWED


def test_fingerprints_are_compared_before_the_name_is_missed() -> None:
    anonymous = hello(None)
    digest, named = ja3(anonymous)[1], ja4(anonymous)
    for keys, reason in (
        ({"ja3_blocklist": (digest,), "ja4_blocklist": (named,), "require_sni": True}, Reason.JA3_BLOCKED),
        ({"ja4_blocklist": (named,), "require_sni": True}, Reason.JA4_BLOCKED),
        ({"require_sni": True}, Reason.NO_SNI),
        ({"ja3_blocklist": ("0" * 32,)}, None),
    ):
        assert guard(**keys).judge(anonymous, Fingerprints(anonymous)) is reason
    assert guard(require_sni=True).judge(hello(), Fingerprints(hello())) is None


def test_a_standing_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symphony.protection.guard._MOST_REMEMBERED", 10)
    networks = {"a": CidrSet(["192.0.2.0/25"]), "b": CidrSet(["192.0.2.0/24"])}
    made = make_guard(ProtectionEntry(allowlist="a", blocklist="b"), networks)
    assert made is not None and made.lists
    for _ in range(2):
        for last in range(256):
            expected = Standing.ALLOWED if last < 128 else Standing.REFUSED
            assert made.standing(bytes([192, 0, 2, last])) is expected
        assert made.standing(bytes([192, 0, 3, 1])) is Standing.UNLISTED
    assert len(made._remembered) <= 10


def test_only_what_is_listed_is_computed() -> None:
    seen = hello()
    fingerprints = Fingerprints(seen)
    guard(require_sni=True).judge(seen, fingerprints)
    assert fingerprints.known == ("", "")
    guard(ja4_blocklist=("0",)).judge(seen, fingerprints)
    assert fingerprints.known == ("", ja4(seen))
    assert fingerprints.ja3 == ja3(seen)[1]
    assert fingerprints.known == (ja3(seen)[1], ja4(seen))


def test_a_hello_without_a_fingerprint_is_refused() -> None:
    data = bytearray(SteppedClient("a.test").hello())
    groups = data.index(b"\x00\x0a\x00", 80) + 4
    data[groups : groups + 2] = b"\xff\xff"
    broken = parse(bytes(data))
    assert isinstance(broken, ClientHello)
    with pytest.raises(MalformedClientHello):
        guard(ja3_blocklist=("0" * 32,)).judge(broken, Fingerprints(broken))
    assert guard(require_sni=True).judge(broken, Fingerprints(broken)) is None


class Listening:
    def __init__(self) -> None:
        self.heard: list[Event] = []

    def push(self, message: Event) -> bool:
        self.heard.append(message)
        return True


def test_a_flood_is_told_of_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("symphony.observe.throttle.time.monotonic", lambda: clock[0])
    hub, listening = EventHub(), Listening()
    hub.subscribe(listening)
    blocks = BlockEvents(hub)
    for _ in range(1000):
        blocks.tell(Reason.JA4_BLOCKED, "web", "192.0.2.1", b"a.test", ("", "t13"))
    assert listening.heard == [Blocked("web", "192.0.2.1", "ja4_blocked", "a.test", "", "t13", 0)] * int(
        EVENTS_PER_SECOND
    )
    clock[0] += 1.0
    blocks.tell(Reason.CIDR_BLOCKED, "web", "192.0.2.1", None, ("", ""))
    left_out = 1000 - int(EVENTS_PER_SECOND)
    assert listening.heard[-1] == Blocked("web", "192.0.2.1", "cidr_blocked", "", "", "", left_out)
