"""Connections that a real acceptor holds, and what becomes of them when its mailbox is told."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from symphony.config.model import TcpUpstream, UdsUpstream
from symphony.config.snapshot import ClientAuthority, Identity
from symphony.connection.held import PAGE
from symphony.mailbox.client import MailboxError, MailboxRefused, ask
from symphony.mailbox.envelope import PROTOCOL_VERSION, Envelope
from symphony.mailbox.framing import encode_frame
from symphony.messages.acceptor import AcceptorReply, DescribeAcceptor
from symphony.messages.events import Suspended
from symphony.messages.held import HeldRoute, ListHeld, ResolveHeld
from symphony.observe.reasons import Reason
from symphony.tls import client_hello
from symphony.tls.certificate_maker import make_authority, make_certificate
from symphony.tls.fingerprint import ja3, ja4
from tests.support.acceptor import (
    IDENTITY,
    LISTENER,
    AcceptorRig,
    Tls,
    complaints,
    cpu_seconds,
    descriptors,
    route,
    snapshot,
)
from tests.support.actor_process import ActorProcess, Stage
from tests.support.held import Watcher, apart, watching
from tests.support.loops import eventually
from tests.support.peers import PlainPeer, UpstreamHost, receive_exactly, reset
from tests.support.ports import lasting_port
from tests.support.registry_stand_in import ready, registry
from tests.support.site import ended_by_reset
from tests.support.sources import is_turned_away
from tests.support.tls_client import SteppedClient, client_context, connect, in_records

NAME = "held.example.test"
NOBODY = 65534

_other = make_certificate(["held.example.test"])
OTHER = Identity(_other.chain_pem, _other.key_pem)


class Place:
    """An acceptor with suspended routes, and who watches it."""

    def __init__(self, rig: AcceptorRig, process: ActorProcess, watcher: Watcher) -> None:
        self.rig = rig
        self.process = process
        self.watcher = watcher
        self.clients = ExitStack()

    def connect(self) -> socket.socket:
        """A connection that is closed at the end of the test, if not before."""
        return self.clients.enter_context(connect(self.rig.port))

    def knock(self, name: str = NAME) -> tuple[socket.socket, SteppedClient]:
        """A client that has sent its ClientHello."""
        sock, client = self.connect(), SteppedClient(name)
        sock.sendall(client.hello())
        return sock, client


@asynccontextmanager
async def place_of(stage: Stage, *routes: Any, **settings: Any) -> AsyncIterator[Place]:
    rig = AcceptorRig(stage, snapshot(*routes, **settings))
    try:
        process = rig.start()
        async with watching(stage.mailbox("acceptor-0")) as watcher:
            place = Place(rig, process, watcher)
            with place.clients:
                yield place
    finally:
        rig.close()


def held_route(**settings: Any) -> Any:
    return route(NAME, suspend_ms=settings.pop("suspend_ms", 20_000), **settings)


def to(host: UpstreamHost) -> UdsUpstream:
    return UdsUpstream(path=host.path)


def exchange(client: SteppedClient, sock: socket.socket, server: PlainPeer) -> None:
    question, answer = os.urandom(200), os.urandom(300)
    client.send(sock, question)
    assert receive_exactly(server, 200) == question
    server.send(answer)
    got = b""
    while len(got) < 300:
        got += client.receive(sock)
    assert got == answer


async def finish_through(client: SteppedClient, sock: socket.socket, upstream: UpstreamHost) -> None:
    """The handshake, bytes each way, and an end in order."""
    await apart(client.finish, sock)
    server = await apart(upstream.accept)
    await apart(exchange, client, sock, server)
    server.sock.close()
    assert await apart(client.receive, sock) == b""
    sock.close()


# Forwarding


async def test_held_then_terminated_with_the_routes_own_certificate(
    stage: Stage, upstream: UpstreamHost
) -> None:
    async with place_of(stage, held_route()) as place:
        sock = place.connect()
        client = SteppedClient(NAME)
        hello = client.hello()
        sock.sendall(hello)
        event = await place.watcher.next_suspended()
        parsed = client_hello.parse(hello)
        assert isinstance(parsed, client_hello.ClientHello)
        ip, port = sock.getsockname()
        assert event == Suspended(
            event.id, LISTENER, NAME, NAME, ip, port, ja3(parsed)[1], ja4(parsed), 20_000, 0
        )
        assert event.id.startswith("0-")
        assert place.rig.active == 1
        assert await place.watcher.resolve(event.id, to(upstream)) == "forwarded"
        assert await place.watcher.wait_released(event.id) == "forwarded"
        await finish_through(client, sock, upstream)
        await eventually(lambda: place.rig.active == 0, "it is over")
        assert place.rig.failures == {}
        assert complaints(place.process) == []


@pytest.mark.parametrize("size", [1, 7, 64])
async def test_fragmented_hello_is_held_and_passed_through_byte_by_byte(
    stage: Stage, upstream: UpstreamHost, size: int
) -> None:
    async with place_of(stage, held_route(policy=-1, terminate=False)) as place:
        sock = place.connect()
        hello = in_records(SteppedClient(NAME).hello(), size)
        for at in range(0, len(hello), 50):
            sock.sendall(hello[at : at + 50])
            await eventually(lambda: True, "a turn")
        event = await place.watcher.next_suspended()
        sock.sendall(b"and more, before anybody has said anything")
        assert await place.watcher.resolve(event.id, to(upstream)) == "forwarded"
        server = await apart(upstream.accept)
        expected = hello + b"and more, before anybody has said anything"
        assert await apart(receive_exactly, server, len(expected)) == expected
        server.send(b"answer")
        assert sock.recv(100) == b"answer"
        sock.close()
        server.sock.close()


async def test_either_way_whatever_the_route_says(stage: Stage, upstream: UpstreamHost) -> None:
    terminated = route("terminated.example.test", suspend_ms=20_000)
    passed = route("passed.example.test", suspend_ms=20_000, terminate=False)
    async with place_of(stage, terminated, passed) as place:
        sock, client = place.knock("passed.example.test")
        event = await place.watcher.next_suspended()
        assert await place.watcher.resolve(event.id, to(upstream), terminate_tls=True) == "forwarded"
        await finish_through(client, sock, upstream)

        sock, client = place.knock("terminated.example.test")
        event = await place.watcher.next_suspended(1)
        assert await place.watcher.resolve(event.id, to(upstream), terminate_tls=False) == "forwarded"
        server = await apart(upstream.accept)
        assert (await apart(server.receive))[:2] == b"\x16\x03"
        sock.close()
        server.sock.close()


async def test_the_routes_own_upstreams_serve_where_none_is_given(
    stage: Stage, upstream: UpstreamHost
) -> None:
    async with place_of(stage, route(NAME, to(upstream), suspend_ms=20_000)) as place:
        sock, client = place.knock()
        event = await place.watcher.next_suspended()
        assert await place.watcher.resolve(event.id) == "forwarded"
        await finish_through(client, sock, upstream)


async def test_next_upstream_is_tried_and_a_dead_one_alone_is_a_reset(
    stage: Stage, upstream: UpstreamHost
) -> None:
    dead = TcpUpstream(host="127.0.0.1", port=lasting_port())
    async with place_of(stage, held_route(terminate=False)) as place:
        sock, _ = place.knock()
        event = await place.watcher.next_suspended()
        assert await place.watcher.resolve(event.id, dead) == "forwarded"
        assert await apart(ended_by_reset, sock)
        await eventually(lambda: place.rig.count(Reason.UPSTREAM_REFUSED) == 1, "it is counted")
        sock, _ = place.knock()
        event = await place.watcher.next_suspended(1)
        assert await place.watcher.resolve(event.id, dead, to(upstream)) == "forwarded"
        (await apart(upstream.accept)).sock.close()


async def test_a_rate_is_asked_for_before_a_connection_is_held(stage: Stage, upstream: UpstreamHost) -> None:
    """There is no limiter here, so the acceptor's own share decides: one at once."""
    async with place_of(stage, held_route(rate=0.001, burst=1.0)) as place:
        first, client = place.knock()
        event = await place.watcher.next_suspended()
        second, _ = place.knock()
        assert await apart(ended_by_reset, second)
        await eventually(lambda: place.rig.failures == {"rate_limited": 1}, "it is counted")
        assert await place.watcher.resolve(event.id, to(upstream)) == "forwarded"
        await finish_through(client, first, upstream)
        first.close()


# Certificates


async def test_own_certificate_of_a_resolution(stage: Stage, upstream: UpstreamHost) -> None:
    """Ten connections, each with its certificate: none of them leaks into another, and each may offer HTTP/2."""
    trusted = _other.chain_pem
    async with place_of(stage, held_route()) as place:
        for number in range(10):
            own = number % 2 == 0
            context = client_context(alpn=("h2", "http/1.1"), trusted=trusted if own else IDENTITY.chain_pem)
            sock = place.connect()
            client = SteppedClient(NAME, context)
            sock.sendall(client.hello())
            event = await place.watcher.next_suspended(number)
            settings: dict[str, Any] = {"identity": OTHER} if own else {}
            http2 = number % 3 == 0
            if http2:
                settings["http2"] = True
            assert await place.watcher.resolve(event.id, to(upstream), **settings) == "forwarded"
            await apart(client.finish, sock)
            assert client.tls.selected_alpn_protocol() == ("h2" if http2 else "http/1.1")
            (await apart(upstream.accept)).sock.close()
            sock.close()
        assert complaints(place.process) == []


def broken_identities() -> dict[str, Identity]:
    chain, key = _other.chain_pem, _other.key_pem
    return {
        "nothing": Identity(b"", b""),
        "no PEM": Identity(b"certificate", b"key"),
        "key of another": Identity(chain, IDENTITY.key_pem),
        "swapped": Identity(key, chain),
        "cut off": Identity(chain[:-40], key),
        "key cut off": Identity(chain, key[: len(key) // 2]),
        "binary": Identity(os.urandom(2000), os.urandom(2000)),
        "large": Identity(b"-----BEGIN CERTIFICATE-----\n" * 10_000, key),
    }


async def test_a_bad_certificate_is_refused_and_costs_nobody_anything(
    stage: Stage, upstream: UpstreamHost
) -> None:
    async with place_of(stage, held_route()) as place:
        sock, client = place.knock()
        event = await place.watcher.next_suspended()
        for what, identity in broken_identities().items():
            with pytest.raises(MailboxRefused) as refused:
                await place.watcher.resolve(event.id, to(upstream), identity=identity)
            assert str(refused.value).startswith(("the chain ", "the key ")), what
            assert "PRIVATE KEY-----\n" not in str(refused.value)
        assert place.watcher.released == {}
        assert await place.watcher.resolve(event.id, to(upstream), identity=OTHER) == "forwarded"
        await finish_through(client, sock, upstream)
        assert complaints(place.process) == []
        log = place.process.log()
        secret = _other.key_pem.splitlines()[1].decode()
        assert secret not in log and "PRIVATE KEY" not in log
    assert secret not in repr(ResolveHeld("x", HeldRoute(identity=OTHER)))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"upstreams": ()}, "no upstream"),
        ({"terminate_tls": False, "identity": OTHER}, "passed through"),
        ({"terminate_tls": False, "http2": True}, "passed through"),
        ({"upstreams": (UdsUpstream(path="relative"),)}, "absolute"),
        ({"upstreams": (UdsUpstream(path="/" + 200 * "x"),)}, "at most 107"),
        ({"upstreams": (TcpUpstream(host="a b", port=1),)}, "upstreams[0].host"),
        ({"upstreams": (TcpUpstream(host="a", port=1, protocol="h2"),)}, "without HTTP/2"),
        ({"source_address_header": "x_forwarded_for", "http2": True}, "HTTP/2 requests"),
        ({"source_address_header": "x_forwarded_for", "terminate_tls": False}, "passed through"),
        ({"forward_fingerprint": ("ja3",)}, "no place for a fingerprint"),
    ],
)
async def test_routes_that_cannot_be_used(
    stage: Stage, upstream: UpstreamHost, settings: dict[str, Any], text: str
) -> None:
    async with place_of(stage, held_route()) as place:
        place.knock()
        event = await place.watcher.next_suspended()
        with pytest.raises(MailboxRefused, match=text.replace("[", r"\[")):
            await place.watcher.resolve(
                event.id, route=HeldRoute(**{"upstreams": (to(upstream),), **settings})
            )
        assert await place.watcher.reject(event.id) == "rejected"


async def test_without_any_certificate_one_has_to_come(stage: Stage, upstream: UpstreamHost) -> None:
    async with place_of(stage, held_route(policy=1), more=[Tls(None)]) as place:
        sock, client = place.knock()
        event = await place.watcher.next_suspended()
        with pytest.raises(MailboxRefused, match="no certificate"):
            await place.watcher.resolve(event.id, to(upstream))
        assert await place.watcher.resolve(event.id, to(upstream), identity=OTHER) == "forwarded"
        await finish_through(client, sock, upstream)


@pytest.mark.parametrize("own", [False, True])
async def test_client_certificates_are_demanded_whatever_certificate_comes(
    stage: Stage, upstream: UpstreamHost, own: bool
) -> None:
    authority = make_authority("clients")
    mine = make_certificate(["a client"], authority=authority, client=True)
    tls = Tls(IDENTITY if own else None, ClientAuthority(authority.cert_pem, True))
    async with place_of(stage, held_route(policy=1), more=[tls]) as place:
        for number, certificate in enumerate((None, mine)):
            sock = place.connect()
            client = SteppedClient(NAME, client_context(certificate=certificate))
            sock.sendall(client.hello())
            event = await place.watcher.next_suspended(number)
            assert await place.watcher.resolve(event.id, to(upstream), identity=OTHER) == "forwarded"
            if certificate is None:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await apart(client.finish, sock)
                    await apart(client.receive, sock)
                await eventually(
                    lambda: place.rig.failures == {"client_certificate_refused": 1}, "it is refused"
                )
            else:
                await finish_through(client, sock, upstream)


# Ends


async def test_rejected(stage: Stage) -> None:
    async with place_of(stage, held_route()) as place:
        sock, _ = place.knock()
        event = await place.watcher.next_suspended()
        assert await place.watcher.reject(event.id) == "rejected"
        assert await apart(ended_by_reset, sock)
        assert await place.watcher.wait_released(event.id) == "rejected"
        await eventually(lambda: place.rig.failures == {"rejected": 1}, "it is counted")
        await eventually(lambda: place.rig.active == 0, "it is over")


async def test_who_is_not_held_is_unknown(stage: Stage, upstream: UpstreamHost) -> None:
    async with place_of(stage, held_route()) as place:
        sock, client = place.knock()
        event = await place.watcher.next_suspended()
        for unknown in ("", "nobody", "0-000000000000-1", event.id + "0"):
            assert await place.watcher.resolve(unknown, to(upstream)) == "unknown"
            assert await place.watcher.reject(unknown) == "unknown"
        assert await place.watcher.resolve(event.id, to(upstream)) == "forwarded"
        assert await place.watcher.resolve(event.id, to(upstream)) == "unknown"
        assert await place.watcher.reject(event.id) == "unknown"
        await finish_through(client, sock, upstream)
        assert list(place.watcher.released) == [event.id]


async def test_two_who_resolve_at_once_with_a_certificate(stage: Stage, upstream: UpstreamHost) -> None:
    """The second is not done either when the first certificate has been looked at."""
    async with place_of(stage, held_route()) as place:
        sock, client = place.knock()
        event = await place.watcher.next_suspended()
        answers: list[Any] = []
        for _ in range(3):
            message = ResolveHeld(event.id, HeldRoute((to(upstream),), identity=OTHER))
            place.watcher.client.request(message, answers.append, 10.0)
        await eventually(lambda: len(answers) == 3, "all are answered")
        assert sorted(answer.how for answer in answers) == ["forwarded", "unknown", "unknown"]
        await finish_through(client, sock, upstream)


async def test_expired(stage: Stage, upstream: UpstreamHost) -> None:
    async with place_of(stage, held_route(suspend_ms=200), handshake_timeout_ms=50) as place:
        began = time.monotonic()
        sock, _ = place.knock()
        event = await place.watcher.next_suspended()
        assert await apart(ended_by_reset, sock)
        assert time.monotonic() - began >= 0.2
        assert await place.watcher.wait_released(event.id) == "expired"
        assert await place.watcher.resolve(event.id, to(upstream)) == "unknown"
        await eventually(lambda: place.rig.failures == {"suspend_timeout": 1}, "it is counted")


async def test_the_handshake_has_its_own_time_after_the_hold(stage: Stage, upstream: UpstreamHost) -> None:
    async with place_of(stage, held_route(), handshake_timeout_ms=300) as place:
        sock, client = place.knock()
        event = await place.watcher.next_suspended()
        time.sleep(0.5)  # noqa: ASYNC251 - longer than the limit, which must not count
        assert await place.watcher.resolve(event.id, to(upstream)) == "forwarded"
        await finish_through(client, sock, upstream)
        sock, client = place.knock()
        event = await place.watcher.next_suspended(1)
        assert await place.watcher.resolve(event.id, to(upstream)) == "forwarded"
        await eventually(lambda: place.rig.failures == {"handshake_timeout": 1}, "it goes on to count")


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
async def test_a_client_that_leaves_is_forgotten_at_once(stage: Stage, how: str) -> None:
    async with place_of(stage, held_route()) as place:
        before = descriptors(place.process.pid)
        sock, _ = place.knock()
        event = await place.watcher.next_suspended()
        if how == "close":
            sock.close()
        elif how == "reset":
            reset(sock)
        else:
            sock.shutdown(socket.SHUT_WR)
        assert await place.watcher.wait_released(event.id) == "left"
        await eventually(lambda: place.rig.failures == {"left_while_held": 1}, "it is counted")
        await eventually(lambda: place.rig.active == 0, "it is over")
        await eventually(lambda: descriptors(place.process.pid) == before, "its descriptor is back")
        assert await place.watcher.pages() == [type((await place.watcher.pages())[0])((), 0)]


async def test_a_client_that_has_left_before_it_is_held(stage: Stage) -> None:
    """Hello and end come in one go: the end is seen although nothing happens any more."""
    async with place_of(stage, held_route()) as place:
        for number in range(5):
            sock, _ = place.knock()
            sock.close()
            event = await place.watcher.next_suspended(number)
            assert await place.watcher.wait_released(event.id) == "left"


async def test_unread_bytes_keep_nobody_busy(stage: Stage) -> None:
    async with place_of(stage, held_route()) as place:
        with ExitStack() as open_sockets:
            for number in range(20):
                sock, _ = place.knock()
                open_sockets.enter_context(sock)
                await place.watcher.next_suspended(number)
                sock.sendall(bytes(5000))
            before = cpu_seconds(place.process.pid)
            time.sleep(1.0)  # noqa: ASYNC251 - a busy loop would use all of it
            assert cpu_seconds(place.process.pid) - before < 0.25


async def test_a_stop_ends_what_is_held_at_once(stage: Stage) -> None:
    async with place_of(stage, held_route()) as place:
        sock, _ = place.knock()
        event = await place.watcher.next_suspended()
        place.process.ask_to_stop(10.0)
        assert await apart(ended_by_reset, sock)
        assert await place.watcher.wait_released(event.id) == "aborted"
        assert await apart(place.process.wait_exit) == 0
        assert place.rig.failures == {"stopped_while_held": 1}


# Many


async def test_the_list_comes_in_pages(stage: Stage) -> None:
    count = 2 * PAGE + 7
    async with place_of(stage, held_route()) as place:
        socks = []
        for number in range(count):
            sock, _ = place.knock()
            socks.append(sock)
            await place.watcher.next_suspended(number)
        pages = await place.watcher.pages()
        assert [len(page.held) for page in pages] == [PAGE, PAGE, 7]
        listed = [held for page in pages for held in page.held]
        assert [held.id for held in listed] == [event.id for event in place.watcher.suspended]
        ports = [sock.getsockname()[1] for sock in socks]
        assert [held.peer_port for held in listed] == ports
        first = place.watcher.suspended[0]
        assert (listed[0].ja3, listed[0].ja4, listed[0].sni) == (first.ja3, first.ja4, NAME)
        assert listed[0].held_ms >= listed[-1].held_ms
        description = await ask(stage.mailbox("acceptor-0"), DescribeAcceptor(), AcceptorReply, 5.0)
        assert description.held == count
        # Those in the middle leave while the list is read.
        page = await place.watcher.ask(ListHeld(pages[0].next))
        for sock in socks[:PAGE]:
            sock.close()
        await eventually(lambda: len(place.watcher.released) == PAGE, "they have left")
        assert [held.id for held in page.held] == [held.id for held in pages[1].held]
        assert [len(page.held) for page in await place.watcher.pages()] == [PAGE, 7]


async def test_held_connections_count_among_the_open_ones(stage: Stage, upstream: UpstreamHost) -> None:
    async with place_of(stage, held_route(), max_connections=3) as place:
        for number in range(3):
            place.knock()
            await place.watcher.next_suspended(number)
        assert await apart(is_turned_away, "127.0.0.1", place.rig.port)
        # The client hears of it before it is counted.
        await eventually(lambda: place.rig.failures == {"max_connections": 1}, "it is counted")
        assert await place.watcher.reject(place.watcher.suspended[0].id) == "rejected"
        place.knock()
        await place.watcher.next_suspended(3)


# Reloads


async def test_held_over_a_change_of_routes(stage: Stage, upstream: UpstreamHost) -> None:
    """The route is gone, or has another certificate: a held connection keeps what it came to."""
    async with registry(stage, snapshot(held_route(), version=3)) as stand_in:
        rig = AcceptorRig(stage, None)
        try:
            process = rig.start(ready=False)
            await ready(process)
            async with watching(stage.mailbox("acceptor-0")) as watcher:
                context = client_context(trusted=IDENTITY.chain_pem)
                clients = []
                for number in range(2):
                    sock = connect(rig.port)
                    client = SteppedClient(NAME, context)
                    sock.sendall(client.hello())
                    clients.append((sock, client))
                    await watcher.next_suspended(number)
                await stand_in.publish_and_wait(snapshot(held_route(policy=1), version=4, more=[Tls(OTHER)]))
                assert await watcher.resolve(watcher.suspended[0].id, to(upstream)) == "forwarded"
                await finish_through(clients[0][1], clients[0][0], upstream)
                await stand_in.publish_and_wait(snapshot(route("another.test", to(upstream)), version=5))
                assert await watcher.resolve(watcher.suspended[1].id, to(upstream)) == "forwarded"
                await finish_through(clients[1][1], clients[1][0], upstream)
            assert complaints(process) == []
        finally:
            rig.close()


# Who may


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_can_neither_listen_nor_decide(stage: Stage, upstream: UpstreamHost) -> None:
    async with place_of(stage, held_route()) as place:
        place.knock()
        event = await place.watcher.next_suspended()
        path = stage.mailbox("acceptor-0")
        # As open as it can be made by mistake: the mailbox itself still looks who it is.
        os.chmod(os.path.dirname(os.path.dirname(path)), 0o755)
        os.chmod(os.path.dirname(path), 0o755)
        os.chmod(path, 0o666)
        child = os.fork()
        if child == 0:
            os._exit(_resolve_as_nobody(path, event.id, upstream.path))
        _, status = await apart(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 3
        assert [held.id for held in (await place.watcher.pages())[0].held] == [event.id]
        assert "of user 65534 refused" in place.process.log()


def _resolve_as_nobody(path: str, id: str, upstream: str) -> int:
    """3 when the mailbox does not even listen."""

    try:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(path)
            message = ResolveHeld(id, HeldRoute((UdsUpstream(path=upstream),)))
            try:
                sock.sendall(
                    encode_frame(msgspec.msgpack.encode(Envelope(PROTOCOL_VERSION, 1, 0.0, message)))
                )
                return 3 if sock.recv(1000) == b"" else 4
            except ConnectionError:
                return 3
    except BaseException:  # noqa: BLE001 - told by the exit code
        return 5


async def test_a_message_that_is_none_cuts_its_sender_off(stage: Stage) -> None:
    async with place_of(stage, held_route()) as place:
        place.knock()
        event = await place.watcher.next_suspended()
        bad = HeldRoute((TcpUpstream(host="a", port=70_000),))
        async with watching(stage.mailbox("acceptor-0")) as other:
            with pytest.raises(MailboxError):
                await other.ask(ResolveHeld(event.id, bad))
        assert [held.id for held in (await place.watcher.pages())[0].held] == [event.id]
