"""A listener that refuses by address, by fingerprint or for want of a server name, and whom it lets in all the same.

Clients choose their source address by binding to one of 127.0.0.0/8.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from symphony.config.model import UdsUpstream
from symphony.config.snapshot import ProtectionEntry
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxClient
from symphony.messages.acceptor import AcceptorReply
from symphony.messages.events import Blocked, EventsSubscribed, SubscribeEvents
from symphony.observe.reasons import Reason
from symphony.tls.client_hello import ClientHello, parse
from symphony.tls.fingerprint import ja3, ja4
from tests.support.acceptor import UNPROTECTED, AcceptorRig, complaints, route, running, snapshot, wait_until
from tests.support.actor_process import Stage
from tests.support.client_hellos import capture
from tests.support.peers import UpstreamHost
from tests.support.showcase import running_showcase
from tests.support.site import Site, ended_by_reset
from tests.support.sources import connect_from, is_turned_away
from tests.support.tls_client import SteppedClient, client_context, connect

ALERT_MISSING_EXTENSION = bytes.fromhex("1503030002026d")


@contextmanager
def guarded(
    upstream: UpstreamHost,
    protection: ProtectionEntry = UNPROTECTED,
    *,
    allowlist: Sequence[str] = (),
    blocklist: Sequence[str] = (),
    handshake_ms: int = 10_000,
) -> Iterator[Site]:
    """A listener with one route per kind; at the end there must be no complaint."""
    target = UdsUpstream(path=upstream.path)
    served = snapshot(
        route("localhost", target),
        route("", target),
        handshake_timeout_ms=handshake_ms,
        protection=protection,
        allowlist=allowlist,
        blocklist=blocklist,
    )
    with Stage() as stage, running(stage, served) as (rig, process):
        yield Site(rig, process, upstream)
        assert complaints(process) == []


def fingerprints(name: str | None = "localhost") -> tuple[str, str]:
    """Those of the client that :class:`SteppedClient` is."""
    hello = parse(SteppedClient(name).hello())
    assert isinstance(hello, ClientHello)
    return ja3(hello)[1], ja4(hello)


def is_let_in(site: Site, source: str = "127.0.0.1", name: str | None = "localhost") -> bool:
    """Whether a client from `source` is connected through to the upstream; False when it is reset."""
    try:
        with connect_from(source, site.port) as sock:
            client = SteppedClient(name)
            client.finish(sock)
            server = site.upstream.accept()
            server.send(b"welcome")
            assert client.receive(sock) == b"welcome"
            server.sock.close()
            return True
    except (ConnectionResetError, BrokenPipeError):
        return False


def refused(rig: AcceptorRig) -> dict[str, int]:
    """What the listener has counted, which must be in the totals too."""
    page = rig.pages[0]
    slot = page.listener_slot("127.0.0.1:0")
    wait_until(lambda: page.blocked(slot).items() <= rig.failures.items(), "both are counted")
    return page.blocked(slot)


def test_addresses(upstream: UpstreamHost) -> None:
    with guarded(upstream, blocklist=["127.0.1.0/24"], allowlist=["127.0.1.9"]) as site:
        assert is_let_in(site, "127.0.0.1")
        assert not is_let_in(site, "127.0.1.8")
        assert is_let_in(site, "127.0.1.9")
        wait_until(lambda: site.rig.active == 0, "all are over")
        assert refused(site.rig) == {"cidr_blocked": 1}


def test_a_blocked_address_is_not_even_listened_to(upstream: UpstreamHost) -> None:
    with guarded(upstream, blocklist=["127.0.1.0/24"]) as site:
        assert is_turned_away("127.0.1.1", site.port)  # nothing was sent
        wait_until(lambda: site.rig.active == 0, "it is over")
        assert refused(site.rig) == {"cidr_blocked": 1}


@pytest.mark.parametrize("kind", [Reason.JA3_BLOCKED, Reason.JA4_BLOCKED])
def test_fingerprints(upstream: UpstreamHost, kind: Reason) -> None:
    digest, named = fingerprints()
    entry = (
        ProtectionEntry(ja3_blocklist=(digest,))
        if kind is Reason.JA3_BLOCKED
        else ProtectionEntry(ja4_blocklist=(named.lower(),))
    )
    with guarded(upstream, entry, allowlist=["127.0.1.9"]) as site:
        assert not is_let_in(site)
        assert is_let_in(site, "127.0.1.9")
        # The same library, but another client.
        with connect(site.port) as sock:
            other = SteppedClient("localhost", client_context(version=ssl.TLSVersion.TLSv1_2))
            other.finish(sock)
            site.upstream.accept().sock.close()
        wait_until(lambda: site.rig.active == 0, "all are over")
        assert refused(site.rig) == {kind.value: 1}


@pytest.mark.parametrize("client", ["curl", "openssl"])
def test_a_real_client_by_its_ja4(upstream: UpstreamHost, client: str) -> None:
    """One kind of client is kept out, whichever name it asks for, and another is not."""
    hello = parse(capture(client))
    assert isinstance(hello, ClientHello)
    with guarded(upstream, ProtectionEntry(ja4_blocklist=(ja4(hello).lower(),))) as site:
        with connect(site.port) as sock:
            sock.sendall(capture(client))
            assert ended_by_reset(sock)
        assert is_let_in(site)
        wait_until(lambda: site.rig.active == 0, "all are over")
        assert refused(site.rig) == {"ja4_blocked": 1}


def test_a_server_name_is_required(upstream: UpstreamHost) -> None:
    with guarded(upstream, ProtectionEntry(require_sni=True), allowlist=["127.0.1.9"]) as site:
        with connect(site.port) as sock:
            sock.sendall(SteppedClient(None).hello())
            assert sock.recv(100) == ALERT_MISSING_EXTENSION
            assert sock.recv(100) == b""
        assert is_let_in(site)
        assert is_let_in(site, "127.0.1.9", None)
        wait_until(lambda: site.rig.active == 0, "all are over")
        assert refused(site.rig) == {"no_sni": 1}


@pytest.mark.parametrize("how", ["closed", "silent", "stopped"])
@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.1.9"])
def test_a_hello_that_never_completes(upstream: UpstreamHost, how: str, source: str) -> None:
    """With fingerprints listed it is refused as such; without, and for who is allowed, it is what it always was."""
    plain = {
        "closed": Reason.TRUNCATED_CLIENT_HELLO,
        "silent": Reason.CLIENT_SILENT,
        "stopped": Reason.CLIENT_HELLO_TIMEOUT,
    }[how]
    expected = Reason.INCOMPLETE_HANDSHAKE if source == "127.0.0.1" else plain
    entry = ProtectionEntry(ja3_blocklist=("0" * 32,))
    with guarded(upstream, entry, allowlist=["127.0.1.9"], handshake_ms=300) as site:
        with connect_from(source, site.port) as sock:
            if how != "silent":
                sock.sendall(SteppedClient("localhost").hello()[:100])
            if how == "closed":
                sock.shutdown(socket.SHUT_WR)
            assert ended_by_reset(sock)
        wait_until(lambda: site.rig.active == 0, "it is over")
        assert site.rig.failures == {expected.value: 1}


def test_a_port_scan_is_no_refusal(upstream: UpstreamHost) -> None:
    with guarded(upstream, ProtectionEntry(ja3_blocklist=("0" * 32,))) as site:
        connect(site.port).close()
        wait_until(lambda: site.rig.failures == {"client_left": 1}, "it is counted")
        assert refused(site.rig) == {}


def test_refusals_are_told_to_who_listens(upstream: UpstreamHost) -> None:
    """Each with its listener, address, name and the fingerprint that was compared; of a flood only some."""
    digest, named = fingerprints()
    flood = 60

    async def listen(site: Site) -> list[Blocked]:
        heard: list[Blocked] = []
        client = MailboxClient(mailbox_path(site.rig.runtime_dir, "acceptor-0"), AcceptorReply)
        client.on_push = heard.append
        await client.connect()
        assert await client.call(SubscribeEvents()) == EventsSubscribed("acceptor-0")
        assert not await asyncio.to_thread(is_let_in, site)
        for _ in range(flood):
            await asyncio.to_thread(is_let_in, site, "127.0.1.1")
        deadline = time.monotonic() + 30
        while len(heard) < 2:
            assert time.monotonic() < deadline, heard
            await asyncio.sleep(0.01)
        before = len(heard)
        await asyncio.sleep(1.1)  # the next second's events
        await asyncio.to_thread(is_let_in, site, "127.0.1.1")
        while len(heard) == before:
            assert time.monotonic() < deadline, heard
            await asyncio.sleep(0.01)
        await client.close()
        return heard

    with guarded(
        upstream, ProtectionEntry(ja4_blocklist=(named.lower(),)), blocklist=["127.0.1.0/24"]
    ) as site:
        heard = asyncio.run(listen(site))
    listener = "127.0.0.1:0"
    assert heard[0] == Blocked(listener, "127.0.0.1", "ja4_blocked", "localhost", "", named, 0)
    blocked = [event for event in heard if event.reason == "cidr_blocked"]
    assert {(event.ip, event.sni, event.ja3, event.ja4) for event in blocked} == {("127.0.1.1", "", "", "")}
    assert sum(event.left_out for event in heard) + len(heard) == 1 + flood + 1
    assert digest  # of the same client; it was not asked for, and is not told


def test_lists_change_with_a_reload() -> None:
    """In a running instance, from a file of networks, for new connections of both acceptors."""
    with running_showcase() as show:
        symphony, port = show.symphony, show.symphony.port()

        def let_in() -> set[bool]:
            return {_is_accepted(port, "127.0.1.1") for _ in range(12)}

        def reload(text: str) -> None:
            symphony.config_file.write_text(text)
            done = symphony.command("reload")
            assert done.returncode == 0, done.stderr
            version = symphony.status().config_version
            wait_until(
                lambda: all(symphony.acceptor(f"acceptor-{at}").version == version for at in (0, 1)), "served"
            )

        assert let_in() == {True}
        symphony.write("bad.txt", b"# nobody yet\n")
        protected = show.config.replace(
            "[[routes]]", '[listeners.protection]\nblocklist = ["@bad.txt"]\n[[routes]]', 1
        )
        reload(protected)
        assert let_in() == {True}
        symphony.write("bad.txt", b"127.0.1.0/24\n")
        reload(protected)
        assert let_in() == {False}
        assert _is_accepted(port, "127.0.0.1")
        status = symphony.status()
        assert status.listeners[0].blocked == {"cidr_blocked": 12}
        assert status.connections.errors["cidr_blocked"] == 12
        symphony.write("bad.txt", b"127.0.1.0/24\nnonsense\n")
        done = symphony.command("reload")
        assert done.returncode == 2
        assert '"bad.txt" line 2: "nonsense" is no network' in done.stderr
        assert let_in() == {False}


def _is_accepted(port: int, source: str) -> bool:
    """Whether a ClientHello is answered; False when the connection is reset."""
    try:
        with connect_from(source, port) as sock:
            sock.sendall(SteppedClient("exact.example.test").hello())
            return sock.recv(1) != b""
    except (ConnectionResetError, BrokenPipeError):
        return False
