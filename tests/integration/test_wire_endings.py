"""Clients that stop, leave or reset, at every stage up to the relay; and client certificates.

Every test runs beside a connection in good order, which must not notice. At the end of each the failure is counted
under its own reason and no other, the acceptor's descriptors are back, and its log has no error and no traceback.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from symphony.config.model import UdsUpstream
from symphony.config.snapshot import ClientAuthority
from symphony.observe.counters import ACCEPTED, HANDSHAKES
from symphony.observe.reasons import Reason
from symphony.tls.certificate_maker import make_authority, make_certificate
from tests.support.acceptor import (
    Tls,
    complaints,
    descriptors,
    route,
    running,
    snapshot,
    wait_until,
)
from tests.support.actor_process import Stage
from tests.support.peers import UpstreamHost, receive_exactly, reset
from tests.support.site import Site, ended_by_reset
from tests.support.tls_client import SteppedClient, client_context, connect

HANDSHAKE_MS = 400
NOW = datetime.now(UTC)

AUTHORITY = make_authority("clients")
REQUIRED = ClientAuthority(AUTHORITY.cert_pem, True)
OPTIONAL = ClientAuthority(AUTHORITY.cert_pem, False)
GOOD = make_certificate(["alice"], authority=AUTHORITY, client=True)
STRANGER = make_certificate(["mallory"], authority=make_authority("others"), client=True)
EXPIRED = make_certificate(
    ["bob"],
    authority=AUTHORITY,
    client=True,
    not_before=NOW - timedelta(days=9),
    not_after=NOW - timedelta(days=1),
)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    upstream = UpstreamHost("uds")
    target = UdsUpstream(path=upstream.path)
    routes = snapshot(
        route("localhost", target),
        route("pass.test", target, terminate=False),
        route("required.test", target, policy=1),
        route("optional.test", target, policy=2),
        handshake_timeout_ms=HANDSHAKE_MS,
        more=[Tls(authority=REQUIRED), Tls(authority=OPTIONAL)],
    )
    try:
        with Stage() as stage, running(stage, routes) as (rig, process):
            yield Site(rig, process, upstream)
    finally:
        upstream.close()


def hello(name: str | None = "localhost") -> bytes:
    return SteppedClient(name).hello()


# Clients that stop or leave


def test_clients_that_stop(site: Site) -> None:
    """Each within the time limit of the handshake, and for a reason of its own."""
    began = time.monotonic()
    before = dict(site.rig.failures)
    with site.neighbour():
        open_before = descriptors(site.process.pid)
        data = hello()
        silent, halfway, shaking = (connect(site.port) for _ in range(3))
        halfway.sendall(data[:200])
        shaking.sendall(data)
        for sock in (silent, halfway, shaking):
            assert ended_by_reset(sock)
            sock.close()
        assert HANDSHAKE_MS / 1000 <= time.monotonic() - began < HANDSHAKE_MS / 1000 + 5.0
        wait_until(lambda: sum(site.rig.failures.values()) >= sum(before.values()) + 3, "all are counted")
        for reason in (Reason.CLIENT_SILENT, Reason.CLIENT_HELLO_TIMEOUT, Reason.HANDSHAKE_TIMEOUT):
            assert site.rig.count(reason) == before.get(reason.value, 0) + 1
        assert sum(site.rig.failures.values()) == sum(before.values()) + 3
        wait_until(lambda: descriptors(site.process.pid) <= open_before, "the descriptors are back")
    assert complaints(site.process) == []


def test_client_hello_that_drips_is_ended_by_the_same_limit(site: Site) -> None:
    """Bytes that come now and then do not prolong the time that all of them together have."""
    with site.ends_as(Reason.CLIENT_HELLO_TIMEOUT), connect(site.port) as sock:
        began = time.monotonic()
        for byte in hello():
            try:
                sock.send(bytes([byte]))
            except ConnectionError:
                break
            if select.select([sock], [], [], 0.02)[0]:
                break
        assert HANDSHAKE_MS / 1000 <= time.monotonic() - began < HANDSHAKE_MS / 1000 + 5.0


def test_client_that_connects_and_closes(site: Site) -> None:
    with site.ends_as(Reason.CLIENT_LEFT, 5):
        for _ in range(5):
            connect(site.port).close()


@pytest.mark.parametrize("part", [1, 4, 5, 8, 9, 100, -1])
def test_client_that_closes_in_its_hello(site: Site, part: int) -> None:
    with site.ends_as(Reason.TRUNCATED_CLIENT_HELLO, 3):
        for _ in range(3):
            sock = connect(site.port)
            sock.sendall(hello()[:part])
            sock.close()


def test_client_that_closes_in_its_hello_later(site: Site) -> None:
    with site.ends_as(Reason.TRUNCATED_CLIENT_HELLO):
        accepted = site.rig.total(ACCEPTED)
        sock = connect(site.port)
        sock.sendall(hello()[:100])
        wait_until(lambda: site.rig.total(ACCEPTED) > accepted, "it is accepted")
        sock.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_that_closes_in_the_handshake(site: Site, version: ssl.TLSVersion) -> None:
    with site.ends_as(Reason.HANDSHAKE_ABANDONED, 3):
        for _ in range(3):
            with connect(site.port) as sock:
                client = SteppedClient("localhost", client_context(version=version))
                sock.sendall(client.hello())
                assert client.answer(sock)
                sock.shutdown(socket.SHUT_WR)
                assert ended_by_reset(sock)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "stage", ["after connect", "in the hello", "after the hello", "in the handshake", "after the handshake"]
)
def test_reset_before_the_relay(site: Site, stage: str, version: ssl.TLSVersion) -> None:
    with site.ends_as(Reason.CLIENT_RESET, 3):
        for _ in range(3):
            accepted, handshakes = site.rig.total(ACCEPTED), site.rig.total(HANDSHAKES)
            sock = connect(site.port)
            wait_until(lambda before=accepted: site.rig.total(ACCEPTED) > before, "it is accepted")  # type: ignore[misc]
            client = SteppedClient("localhost", client_context(version=version))
            if stage == "in the hello":
                sock.sendall(client.hello()[:100])
            elif stage != "after connect":
                sock.sendall(client.hello())
            if stage in ("in the handshake", "after the handshake"):
                flight = client.answer(sock)
                if stage == "after the handshake":
                    sock.sendall(flight)
            reset(sock)
            if stage == "after the handshake":
                wait_until(
                    lambda before=handshakes: site.rig.total(HANDSHAKES) > before or site.rig.active == 1,  # type: ignore[misc]
                    "the handshake is over",
                )
                if site.rig.total(HANDSHAKES) > handshakes:
                    server = site.upstream.accept()
                    wait_until(lambda: site.rig.active == 1, "it is over although the upstream does nothing")
                    server.sock.close()


@pytest.mark.parametrize("name", ["localhost", "pass.test"])
def test_reset_in_the_relay(site: Site, name: str) -> None:
    with site.ends_as(Reason.CLIENT_RESET, 3):
        for _ in range(3):
            sock = connect(site.port)
            client = SteppedClient(name)
            if name == "pass.test":
                data = client.hello()
                sock.sendall(data)
            else:
                client.finish(sock)
                data = b"last words"
                client.send(sock, data)
            server = site.upstream.accept()
            assert receive_exactly(server, len(data)) == data
            reset(sock)
            wait_until(lambda: site.rig.active == 1, "it is over although the upstream does nothing")
            server.sock.close()


def test_close_right_after_the_handshake_is_no_failure(site: Site) -> None:
    with site.neighbour():
        before = site.rig.failures
        for _ in range(3):
            with connect(site.port) as sock:
                SteppedClient("localhost").finish(sock)
                sock.shutdown(socket.SHUT_WR)
                server = site.upstream.accept()
                assert server.receive() == b""
                server.sock.close()
                assert not ended_by_reset(sock)
        wait_until(lambda: site.rig.active == 1, "all are over")
        assert site.rig.failures == before
    assert complaints(site.process) == []


# Client certificates


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("name", "certificate", "alert"),
    [
        ("required.test", None, ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE")),
        ("required.test", STRANGER, ("UNKNOWN_CA", "UNKNOWN_CA")),
        ("required.test", EXPIRED, ("CERTIFICATE_EXPIRED", "CERTIFICATE_EXPIRED")),
        ("optional.test", STRANGER, ("UNKNOWN_CA", "UNKNOWN_CA")),
        ("optional.test", EXPIRED, ("CERTIFICATE_EXPIRED", "CERTIFICATE_EXPIRED")),
    ],
)
def test_client_certificate_refused(
    site: Site, name: str, certificate: object, alert: tuple[str, str], version: ssl.TLSVersion
) -> None:
    """The client is told why, and the upstream is not bothered."""
    context = client_context(version=version, certificate=certificate)  # type: ignore[arg-type]
    with site.ends_as(Reason.CLIENT_CERTIFICATE_REFUSED, 2):
        for _ in range(2):
            with connect(site.port) as sock, pytest.raises(ssl.SSLError) as caught:
                client = SteppedClient(name, context)
                client.finish(sock)  # by TLS 1.3 the client is done before its certificate is looked at
                client.receive(sock)
            assert alert[version is ssl.TLSVersion.TLSv1_2] in str(caught.value)
        assert not select.select([site.upstream.listening], [], [], 0)[0]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("name", "certificate"), [("required.test", GOOD), ("optional.test", GOOD), ("optional.test", None)]
)
def test_client_certificate_accepted(
    site: Site, name: str, certificate: object, version: ssl.TLSVersion
) -> None:
    context = client_context(version=version, certificate=certificate)  # type: ignore[arg-type]
    with site.neighbour(), connect(site.port) as sock:
        client = SteppedClient(name, context)
        client.finish(sock)
        server = site.upstream.accept()
        client.send(sock, b"hello")
        assert receive_exactly(server, 5) == b"hello"
        server.sock.close()
    assert complaints(site.process) == []
