"""The operations that are measured: each as a function without arguments, made ready by `prepare`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from struct import pack

import msgspec

from symphony.config.model import Balance, UdsUpstream
from symphony.mailbox.envelope import PROTOCOL_VERSION, Envelope, EnvelopeDecoder
from symphony.mailbox.framing import FrameDecoder, encode_frame
from symphony.messages.limiter import Acquire, Granted, LimiterReply, LimiterRequest
from symphony.observe.counters import CounterPage
from symphony.observe.record_totals import add_up
from symphony.observe.records import RecordBook, RouteRecord
from symphony.protection.cidr import CidrSet, source_key
from symphony.protection.hold_cells import HoldCells, Holds
from symphony.protection.penalty import SourceLimits, Verdict
from symphony.protection.source_store import SourceStore
from symphony.protection.sources import SourceTable
from symphony.protection.token_bucket import BucketTable
from symphony.relay.http_head import identity_fields
from symphony.relay.http_rewriter import HeadRewriter
from symphony.relay.proxy_protocol import encode_v1, encode_v2
from symphony.relay.timer_wheel import TimerWheel
from symphony.routing.pool import UpstreamPool
from symphony.routing.table import RouteTable
from symphony.routing.upstream import UpstreamSlot
from symphony.tls import fingerprint
from symphony.tls.client_hello import ClientHello, parse
from symphony.tls.fingerprint import Fingerprints

Call = Callable[[], object]

_CLIENT = ("203.0.113.7", 50123)
_SERVER = ("198.51.100.1", 443)
_REQUEST = (
    b"GET /catalogue/items?page=2 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
    b"Accept: text/html,application/xhtml+xml\r\nAccept-Encoding: gzip, br\r\nCookie: session=0123456789abcdef\r\n"
    b"X-Forwarded-For: 192.0.2.1\r\nConnection: keep-alive\r\n\r\n"
)
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


class Unexpected(Exception):
    """A case does not do what it is there to measure."""


@dataclass(frozen=True)
class Case:
    """One operation; `prepare` returns the function to call, and has checked what that returns."""

    name: str
    title: str
    prepare: Callable[[], Call]


def expect(condition: bool, what: str) -> None:
    """Raise Unexpected: a benchmark of the wrong thing is worse than none."""
    if not condition:
        raise Unexpected(what)


def browser_hello() -> bytes:
    """Return a ClientHello with the fields that a present-day browser sends, post-quantum key share included."""

    def vector(size: int, body: bytes) -> bytes:
        return len(body).to_bytes(size, "big") + body

    def numbers(*values: int) -> bytes:
        return pack(f">{len(values)}H", *values)

    name = b"shop.example.com"
    groups = numbers(0x2A2A, 0x11EC, 29, 23, 24)
    shares = numbers(0x2A2A) + vector(2, b"\0") + numbers(0x11EC) + vector(2, bytes(1216))
    shares += numbers(29) + vector(2, bytes(32))
    algorithms = numbers(0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601)
    extensions = (
        (0x1A1A, b""),
        (51, vector(2, shares)),
        (10, vector(2, groups)),
        (45, b"\1\1"),
        (27, b"\2\0\2"),
        (11, b"\1\0"),
        (35, b""),
        (23, b""),
        (0, vector(2, b"\0" + vector(2, name))),
        (18, b""),
        (13, vector(2, algorithms)),
        (43, vector(1, numbers(0x3A3A, 0x0304, 0x0303))),
        (5, b"\1\0\0\0\0"),
        (16, vector(2, vector(1, b"h2") + vector(1, b"http/1.1"))),
        (17613, vector(2, vector(1, b"h2"))),
        (65281, b"\0"),
        (0x4A4A, b"\0"),
    )
    ciphers = numbers(
        0x5A5A, 0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC013, 0xC014, 0x009C,
        0x009D, 0x002F, 0x0035,
    )  # fmt: skip
    body = numbers(0x0303) + bytes(range(32)) + vector(1, bytes(32)) + vector(2, ciphers) + vector(1, b"\0")
    body += vector(2, b"".join(numbers(kind) + vector(2, content) for kind, content in extensions))
    message = b"\1" + vector(3, body)
    return b"\x16\x03\x01" + vector(2, message)


def _hello() -> ClientHello:
    hello = parse(browser_hello())
    expect(
        isinstance(hello, ClientHello) and hello.server_name == b"shop.example.com", "the hello is not read"
    )
    return hello  # type: ignore[return-value]


def _parse() -> Call:
    _hello()
    data = browser_hello()
    return lambda: parse(data)


def _ja3() -> Call:
    hello = _hello()
    expect(len(fingerprint.ja3(hello)[1]) == 32, "no JA3")
    return lambda: fingerprint.ja3(hello)


def _ja4() -> Call:
    hello = _hello()
    expect(fingerprint.ja4(hello).startswith("t13d1515h2_"), "another JA4")
    return lambda: fingerprint.ja4(hello)


def _prints_again() -> Call:
    hello = _hello()
    expect(Fingerprints(hello).ja4 == fingerprint.ja4(hello), "another JA4")

    def both() -> tuple[str, str]:
        found = Fingerprints(hello)
        return found.ja3, found.ja4

    return both


def _lookup(routes: int, name: bytes, expected: int) -> Callable[[], Call]:
    def prepare() -> Call:
        entries = [(f"host-{number}.example.com", number) for number in range(routes)]
        table = RouteTable([*entries, ("*.apps.example.com", -1), ("", -2)])
        expect(table.lookup(name) == expected, "another route")
        return lambda: table.lookup(name)

    return prepare


def _pick(upstreams: int, strategy: Balance = "least_connections", weight: int = 1) -> Callable[[], Call]:
    """Choices of one of four acceptors. `weight` is that of the first upstream."""

    def prepare() -> Call:
        pages = [CounterPage([]) for _ in range(4)]
        pool = UpstreamPool([page.upstreams for page in pages])
        entries = [
            UdsUpstream(path=f"/run/application-{number}.sock", weight=1 if number else weight)
            for number in range(upstreams)
        ]
        balancer = pool.balancer(entries, range(upstreams), strategy)
        for number, slot in enumerate(balancer.slots):
            for _ in range(5 - number % 3):
                slot.record.begin()
        pick = partial(balancer.pick, (), "203.0.113.7")
        expect(isinstance(pick(), UpstreamSlot), "nothing was chosen")
        return pick

    return prepare


def _accounts() -> Call:
    page = CounterPage([])
    upstream = UpstreamPool([page.upstreams]).slot(UdsUpstream(path="/run/application.sock"), 5).record
    route = RecordBook(RouteRecord, [page.routes], page.routes).record("shop.example.com", 7)

    def connection() -> None:
        route.opened()
        upstream.begin()
        upstream.connected(120)
        upstream.closed(400, 2000)
        route.closed(400, 2000, False)

    connection()
    expect(add_up([page.upstreams], 5, upstream.key).bytes_down == 2000, "not counted")
    return connection


def _bucket() -> Call:
    table = BucketTable(1000)
    clock = itertools.count(1, 1)
    expect(table.take("route", 2.0, 10.0, 0.0) == 0.0, "no token")
    return lambda: table.take("route", 2.0, 10.0, float(next(clock)))


def _decide(sources: int) -> Callable[[], Call]:
    """Decisions of one of two acceptors."""

    def prepare() -> Call:
        store = SourceStore(sources + 1)
        table = SourceTable(store, Holds(0, [HoldCells(store.cells) for _ in range(2)]))
        expect(table.configure("main", SourceLimits(1e4, 2e4, 6e5, 1e6, 60.0, 50), 0.0), "no lock")
        keys = [number.to_bytes(4, "big") for number in range(sources)]
        clock = itertools.count(1, 1)
        sender = itertools.cycle(keys)

        def admit() -> Verdict:
            decision = table.decide("main", next(sender), next(clock) * 0.001)
            assert decision is not None, "nobody else has the lock"
            table.release(decision[1])
            return decision[0]

        for _ in keys:
            expect(admit() is Verdict.HELD, "the source is refused")
        return admit

    return prepare


def _cidr(address: str) -> Callable[[], Call]:
    def prepare() -> Call:
        networks = [f"10.{number >> 8}.{number & 255}.0/25" for number in range(10_000)]
        chosen = CidrSet([*networks, *(f"2001:db8:{number:x}::/48" for number in range(0, 20_000, 2))])
        expect(chosen.contains(address), "the address is not in the set")
        return lambda: chosen.contains(address)

    return prepare


def _source_key() -> Call:
    expect(len(source_key("2001:db8:1:2:3::4")) == 8, "another key")
    return lambda: source_key("2001:db8:1:2:3::4")


def _encode() -> Call:
    encoder = msgspec.msgpack.Encoder()
    frame = encode_frame(encoder.encode(_question()))
    expect(EnvelopeDecoder(LimiterRequest).decode(frame[4:]) == _question(), "not what was encoded")
    return lambda: encode_frame(encoder.encode(_question()))


def _question() -> Envelope[Acquire]:
    return Envelope(PROTOCOL_VERSION, 4711, 123456.789, Acquire("shop.example.com", 100.0, 200.0))


def _decode() -> Call:
    answer = Envelope(PROTOCOL_VERSION, 4711, 0.0, Granted())
    data = encode_frame(msgspec.msgpack.encode(answer))
    frames, envelopes = FrameDecoder(1 << 20), EnvelopeDecoder(LimiterReply)
    expect(envelopes.decode(frames.feed(data)[0]) == answer, "not what was encoded")
    return lambda: envelopes.decode(frames.feed(data)[0])


def _proxy_v1() -> Call:
    expect(encode_v1(_CLIENT, _SERVER).startswith(b"PROXY TCP4 203.0.113.7 "), "another line")
    return lambda: encode_v1(_CLIENT, _SERVER)


def _proxy_v2() -> Call:
    tlvs = ((0x01, b"h2"), (0x02, b"shop.example.com"))
    expect(len(encode_v2(_CLIENT, _SERVER, tlvs)) == 16 + 12 + 5 + 19, "another header")
    return lambda: encode_v2(_CLIENT, _SERVER, tlvs)


class _StoppedLoop:
    """As much of an event loop as the timer wheel uses, without descriptors that somebody would have to close."""

    time = staticmethod(time.monotonic)

    def call_later(self, *_: object) -> object:
        return self


class _Timed:
    """What the timer wheel keeps."""

    __slots__ = ("timer_tick",)

    def __init__(self) -> None:
        self.timer_tick = 0

    def on_timer(self) -> None:
        raise Unexpected("a timer fired while no loop ran")


def _timers() -> Call:
    def failed(error: BaseException) -> None:
        raise error

    wheel = TimerWheel(_StoppedLoop(), failed)  # type: ignore[arg-type]
    for _ in range(10_000):
        wheel.schedule(_Timed(), 60.0)
    entry = _Timed()

    def again() -> None:
        wheel.schedule(entry, 60.0)

    again()
    expect(len(wheel) == 10_001, "not every entry is scheduled")
    return again


def _head() -> Call:
    rewriter = HeadRewriter(identity_fields("203.0.113.7"))

    def exchange() -> bytes:
        sent = b"".join(rewriter.feed(_REQUEST))
        rewriter.answer(_ANSWER)
        return sent

    sent = exchange()
    expect(b"203.0.113.7" in sent and b"192.0.2.1" not in sent, "the client's own field is passed on")
    return exchange


CASES: Sequence[Case] = (
    Case("client-hello", "parse a browser's ClientHello", _parse),
    Case("ja3", "JA3 of a parsed ClientHello", _ja3),
    Case("ja4", "JA4 of a parsed ClientHello", _ja4),
    Case("prints-again", "JA3 and JA4 of a client that came before", _prints_again),
    Case("lookup-10", "route lookup, exact name, 10 routes", _lookup(10, b"host-7.example.com", 7)),
    Case(
        "lookup-100000",
        "route lookup, exact name, 100,000 routes",
        _lookup(100_000, b"host-77777.example.com", 77_777),
    ),
    Case("lookup-wildcard", "route lookup, *.suffix", _lookup(1000, b"Some.Apps.example.com", -1)),
    Case("lookup-default", "route lookup, default route", _lookup(1000, b"other.example.net", -2)),
    Case("pick-1", "balancer pick, 1 upstream", _pick(1)),
    Case("pick-8", "balancer pick, 8 upstreams, 4 acceptors", _pick(8)),
    Case("pick-8-weighted", "the same, of different weights", _pick(8, weight=3)),
    Case("pick-8-round-robin", "the same, in turns", _pick(8, "round_robin")),
    Case("pick-8-random", "the same, at random", _pick(8, "random")),
    Case("pick-8-hash", "the same, by the client's address", _pick(8, "ip_hash")),
    Case("pick-1000", "balancer pick, 1,000 upstreams, 4 acceptors", _pick(1000)),
    Case("accounts", "totals of one connection, per upstream and route", _accounts),
    Case("bucket", "token bucket of a route", _bucket),
    Case("decide-1", "source table: admit and release, 1 source", _decide(1)),
    Case("decide-100000", "source table: admit and release, 100,000 sources", _decide(100_000)),
    Case("source-key", "key of an IPv6 source address", _source_key),
    Case("cidr-v4", "IPv4 address in 10,000 networks", _cidr("10.20.30.40")),
    Case("cidr-v6", "IPv6 address in 10,000 networks", _cidr("2001:db8:1234::1")),
    Case("encode", "encode a question to the rate limiter", _encode),
    Case("decode", "decode an answer of the rate limiter", _decode),
    Case("proxy-v1", "encode a PROXY header, version 1", _proxy_v1),
    Case("proxy-v2", "encode a PROXY header, version 2, two fields", _proxy_v2),
    Case("timer", "timer wheel: schedule anew beside 10,000 others", _timers),
    Case("http-head", "set identity fields in a request head, follow its answer", _head),
)


class UnknownCase(ValueError):
    """No case has this name; says which there are."""


def select(names: Sequence[str]) -> list[Case]:
    """Return the cases with these names, all of them when none is given; a name also stands for `name-...`."""
    if not names:
        return list(CASES)
    chosen: list[Case] = []
    for name in names:
        found = [case for case in CASES if case.name == name or case.name.startswith(f"{name}-")]
        if not found:
            raise UnknownCase(f"no case {name!r}; there are {', '.join(case.name for case in CASES)}")
        chosen += [case for case in found if case not in chosen]
    return chosen
