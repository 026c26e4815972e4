"""Health checks against real sockets: what is well, what is not, and what it is called."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from symphony.config.model import HealthCheck, SourceAddressHeader, TcpUpstream, UdsUpstream, Upstream
from symphony.observe.counters import CounterPage
from symphony.routing.checks import CheckTarget, Shifts, check_target
from symphony.routing.pool import UpstreamPool
from symphony.tls.certificate_maker import make_certificate
from tests.support.ports import lasting_port
from tests.support.probing import QUICK, QUICK_TLS, Probing

LIMIT_S = 10.0


@contextmanager
def listening(path: str = "", backlog: int = 100) -> Iterator[tuple[socket.socket, Upstream]]:
    sock = socket.socket(socket.AF_UNIX) if path else socket.socket()
    with closing(sock):
        sock.bind(path or ("127.0.0.1", 0))
        sock.listen(backlog)
        sock.setblocking(False)
        upstream = (
            UdsUpstream(path=path) if path else TcpUpstream(host="127.0.0.1", port=sock.getsockname()[1])
        )
        yield sock, upstream


@pytest.fixture
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="sy", dir="/tmp") as directory:
        yield directory


async def test_whoever_takes_connections_is_well(directory: str) -> None:
    with listening() as (_, tcp), listening(f"{directory}/u") as (_, uds):
        async with Probing((tcp, QUICK), (uds, QUICK)) as probing:
            await probing.until("up", "up")
            assert probing.slots[0].record.totals.connections == 0  # they are no connections of clients


async def test_what_is_wrong_has_its_name(directory: str) -> None:
    refused = TcpUpstream(host="127.0.0.1", port=lasting_port())
    missing = UdsUpstream(path=f"{directory}/none")
    unresolved = TcpUpstream(host="known.test", port=1)
    for upstream, expected in (
        (refused, "Connection refused"),
        (missing, "No such file or directory"),
        (unresolved, "known.test has no address"),
    ):
        async with Probing((upstream, QUICK)) as probing:
            assert await probing.reason() == expected


async def test_full_backlog_is_a_failure_and_does_not_hang(directory: str) -> None:
    with listening(f"{directory}/u", backlog=0) as (_, upstream), ExitStack() as stack:
        while True:
            filler = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
            filler.setblocking(False)
            try:
                filler.connect(f"{directory}/u")
            except BlockingIOError:
                break
        async with Probing((upstream, QUICK)) as probing:
            assert await probing.reason() == "the backlog is full"


async def test_no_answer_in_time() -> None:
    async with Probing((TcpUpstream(host="silent.test", port=1), QUICK)) as probing:
        assert await probing.reason() == "no answer within 400 ms"
    with listening() as (_, silent):  # takes the connection, and never says anything
        settings = HealthCheck(interval_ms=100, timeout_ms=300, rise=1, fall=1, tls=True)
        async with Probing((silent, settings)) as probing:
            assert await probing.reason() == "no answer within 300 ms"


async def test_all_addresses_are_tried() -> None:
    with listening() as (_, upstream):
        assert isinstance(upstream, TcpUpstream)
        named = TcpUpstream(host="known.test", port=upstream.port)
        async with Probing((named, QUICK)) as probing:
            probing.names.known = ((socket.AF_INET, "127.0.0.2"), (socket.AF_INET, "127.0.0.1"))
            await probing.until("up")


async def test_one_that_stops_and_returns(directory: str) -> None:
    with listening(f"{directory}/u") as (_, upstream):
        async with Probing((upstream, QUICK)) as probing:
            await probing.until("up")
            for _ in range(2):
                os.rename(f"{directory}/u", f"{directory}/away")
                await probing.until("down")
                os.rename(f"{directory}/away", f"{directory}/u")
                await probing.until("up")


class TlsService:
    """A service that speaks TLS; `names` has the server names that it was asked for."""

    def __init__(self, directory: Path) -> None:
        made = make_certificate(["tls.test"])
        file = directory / "pair.pem"
        file.write_bytes(made.chain_pem + made.key_pem)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(file)
        self.context.sni_callback = lambda _, name, __: self.names.append(name)  # type: ignore[assignment]
        self.names: list[str | None] = []

    async def start(self) -> asyncio.Server:
        return await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=self.context)


async def test_tls_handshake_is_a_real_one(tmp_path: Path) -> None:
    service = TlsService(tmp_path)
    async with await service.start() as server:
        port = server.sockets[0].getsockname()[1]
        upstream = TcpUpstream(host="127.0.0.1", port=port)
        async with Probing((upstream, QUICK_TLS), route="tls.test") as probing:
            await probing.until("up")
            assert probing.slots[0].record.last_check()[1]
        assert set(service.names) == {"tls.test"}
        service.names.clear()
        async with Probing((upstream, QUICK_TLS), route="*.test") as probing:
            await probing.until("up")
        assert set(service.names) == {None}
        async with Probing((TcpUpstream(host="known.test", port=port), QUICK_TLS)) as probing:
            probing.names.known = ((socket.AF_INET, "127.0.0.1"),)
            await probing.until("up")
        assert "known.test" in service.names


HEADERS = {
    "proxy_protocol": b"PROXY UNKNOWN\r\n",
    "proxy_protocol_v2": b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
}


@pytest.mark.parametrize("kind", HEADERS)
async def test_a_header_that_names_nobody_goes_first(kind: SourceAddressHeader) -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.put_nowait(await reader.read())
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        upstream = TcpUpstream(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        async with Probing((upstream, QUICK), header=kind) as probing:
            await probing.until("up")
            assert await asyncio.wait_for(got.get(), LIMIT_S) == HEADERS[kind]


@pytest.mark.parametrize("kind", HEADERS)
async def test_tls_begins_behind_the_header(kind: SourceAddressHeader, tmp_path: Path) -> None:
    service = TlsService(tmp_path)

    async def move(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError), closing(writer):  # the last check may be cut off in the middle
            while data := await reader.read(65536):
                writer.write(data)

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(len(HEADERS[kind])) == HEADERS[kind]
        behind = await asyncio.open_connection("127.0.0.1", inner.sockets[0].getsockname()[1])
        await asyncio.gather(move(reader, behind[1]), move(behind[0], writer))

    async with (
        await service.start() as inner,
        await asyncio.start_server(take, "127.0.0.1", 0) as server,
    ):
        upstream = TcpUpstream(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        async with Probing((upstream, QUICK_TLS), route="tls.test", header=kind) as probing:
            await probing.until("up")
        assert set(service.names) == {"tls.test"}


async def test_whoever_speaks_no_tls_is_not_well() -> None:
    async def reject(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if answers:
            writer.write(answers[-1])
        writer.close()

    answers: list[bytes] = []
    for answer, expected in (
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS handshake: "),
        (b"", "closed in the middle of the TLS handshake"),
    ):
        answers.append(answer)
        async with await asyncio.start_server(reject, "127.0.0.1", 0) as server:
            upstream = TcpUpstream(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
            async with Probing((upstream, QUICK_TLS)) as probing:
                reason = await probing.reason()
                # Closing with the client's hello unread may be seen as a reset.
                assert reason.startswith(expected) or reason == "Connection reset by peer"


async def test_our_own_want_of_descriptors_is_not_held_against_it() -> None:
    with listening() as (_, upstream):
        async with Probing((upstream, QUICK)) as probing:
            await probing.until("up")
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            lowest_free = os.open("/dev/null", os.O_RDONLY)
            os.close(lowest_free)
            with capture_logs() as lines:
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
                try:
                    deadline = time.monotonic() + LIMIT_S
                    while not lines:
                        assert time.monotonic() < deadline
                        await asyncio.sleep(0.01)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert lines[0]["event"] == "check_impossible"
            assert probing.slots[0].record.health.state == "up"
            ended = probing.slots[0].record.last_check()[1]
            while probing.slots[0].record.last_check()[1] == ended:  # it goes on
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)


async def test_reloads_change_what_is_checked() -> None:
    gone = TcpUpstream(host="127.0.0.1", port=lasting_port())
    with listening() as (_, upstream):
        async with Probing((gone, QUICK), (upstream, QUICK)) as probing:
            await probing.until("down", "up")
            for _ in range(30):  # of which nothing accumulates
                probing.prober.follow(dict(probing.targets))
            slow = HealthCheck(interval_ms=86_400_000, timeout_ms=400, rise=1, fall=1)
            label = upstream.label
            probing.prober.follow({label: probing.targets[label]._replace(settings=slow)})
            assert probing.slots[0].record.health.state == "up"  # nobody looks at it any more
            probing.prober.follow(probing.targets)
            await probing.until("down", "up")
            assert len(probing.prober._due) <= 6


async def test_stopping_ends_checks_under_way() -> None:
    async with Probing((TcpUpstream(host="silent.test", port=1), QUICK)) as probing:
        deadline = time.monotonic() + LIMIT_S
        while not probing.prober._checks:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
    await asyncio.sleep(0)
    assert not probing.prober._checks


class Rota:
    """Some acceptors that check one upstream, by a clock of the test's; each check takes `takes_ms`."""

    def __init__(
        self, acceptors: int, settings: HealthCheck, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.now = 1_000_000
        monkeypatch.setattr("symphony.routing.upstream.now_ms", lambda: self.now)
        areas = [CounterPage([]).upstreams for _ in range(acceptors)]
        upstream = TcpUpstream(host="127.0.0.1", port=1)
        pools = [UpstreamPool(areas, index) for index in range(acceptors)]
        self.targets: list[CheckTarget] = []
        for pool in pools:
            slot = pool.slot(upstream, number)
            slot.record.heed_checks(settings)
            self.targets.append(check_target("", slot, settings))
        self.shifts = [Shifts(index, acceptors) for index in range(acceptors)]
        self.due = [
            shift.first(target, self.now) for shift, target in zip(self.shifts, self.targets, strict=True)
        ]
        self.running: dict[int, int] = {}
        self.begun: list[tuple[int, int]] = []
        self.pools = pools

    def run(self, ms: int, takes_ms: int = 5, dead: frozenset[int] = frozenset(), failure: str = "") -> None:
        """Let time pass in steps as the prober's ticks do."""
        end = self.now + ms
        while self.now < end:
            self.now += 10
            for index, (shift, target) in enumerate(zip(self.shifts, self.targets, strict=True)):
                if index in dead:
                    self.running.pop(index, None)
                    continue
                if index in self.running:
                    if self.now >= self.running[index]:
                        del self.running[index]
                        target.record.check_ended(target.settings, failure)
                        self.due[index] = shift.next(target, self.now)
                elif self.now >= self.due[index]:
                    turn = shift.turn(target, self.now)
                    if turn.now:
                        target.record.check_begins()
                        self.begun.append((self.now, index))
                        self.running[index] = self.now + takes_ms
                    else:
                        target.record.listen()
                        self.due[index] = turn.again_at


@pytest.mark.parametrize("number", [0, 1, 5])
@pytest.mark.parametrize("acceptors", [1, 2, 4, 64])
def test_one_acceptor_checks_for_all(acceptors: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = HealthCheck(interval_ms=2000, timeout_ms=1000, rise=2, fall=2)
    rota = Rota(acceptors, settings, number, monkeypatch)
    rota.run(60_000)
    assert 28 <= len(rota.begun) <= 32
    assert {index for _, index in rota.begun} == {number % acceptors}
    rota.begun.clear()
    rota.run(60_000, failure="refused")
    assert 28 <= len(rota.begun) <= 32
    assert {target.record.health.state for target in rota.targets} == {"down"}


def test_a_slow_check_is_not_repeated_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = HealthCheck(interval_ms=500, timeout_ms=3000, rise=1, fall=3)
    rota = Rota(4, settings, 0, monkeypatch)
    rota.run(3 * 3500, takes_ms=3000, failure="no answer")
    assert [index for _, index in rota.begun] == [0, 0, 0]
    rota.run(3500, takes_ms=3000, failure="no answer")
    assert {target.record.health.state for target in rota.targets} == {"down"}


def test_when_the_one_who_checks_is_gone_the_next_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = HealthCheck(interval_ms=1000, timeout_ms=500, rise=1, fall=1)
    rota = Rota(3, settings, 0, monkeypatch)
    rota.run(5000)
    rota.begun.clear()
    rota.run(10_000, dead=frozenset({0}))
    assert {index for _, index in rota.begun} == {1} and len(rota.begun) >= 6
    rota.begun.clear()
    rota.run(10_000, dead=frozenset({0, 1}))
    assert {index for _, index in rota.begun} == {2} and len(rota.begun) >= 5
    rota.begun.clear()
    rota.run(10_000)
    assert len(rota.begun) <= 11
    assert {index for _, index in rota.begun[2:]} == {0}
