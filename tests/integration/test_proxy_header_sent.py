"""The PROXY header in front of an upstream's bytes: what it says, and that every byte behind it is the client's own."""

from __future__ import annotations

import random
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID, ObjectIdentifier

from symphony.config.model import Fingerprint, SourceAddressHeader, TcpUpstream, UdsUpstream, Upstream
from symphony.config.snapshot import ClientAuthority, RouteEntry
from symphony.observe.counters import RESUMED
from symphony.relay import proxy_tlv
from symphony.relay.proxy_protocol import Header, encode_v1
from symphony.tls import fingerprint
from symphony.tls.certificate_maker import Authority, MadeCertificate, make_authority, make_certificate
from symphony.tls.client_hello import ClientHello, parse
from tests.support.acceptor import (
    AcceptorRig,
    Tls,
    complaints,
    descriptors,
    route,
    running,
    snapshot,
    wait_until,
)
from tests.support.actor_process import ActorProcess, Stage
from tests.support.peers import Background, PlainPeer, UpstreamHost, receive_all, receive_exactly
from tests.support.proxy_headers import Received, addresses, check_passed_through, receive_header, tlv
from tests.support.tls_client import SteppedClient, client_context, connect

ROOT = make_authority("client root")
MIDDLE = make_authority("client middle", authority=ROOT)
ISSUER = make_authority("client issuer", authority=MIDDLE)
ALICE = make_certificate(["alice"], authority=ISSUER, client=True)
CLIENTS = ClientAuthority(ROOT.cert_pem, False)


def ders(pem: bytes) -> list[bytes]:
    return [found.public_bytes(Encoding.DER) for found in x509.load_pem_x509_certificates(pem)]


def telling(entry: RouteEntry, header: SourceAddressHeader, *prints: Fingerprint) -> RouteEntry:
    return msgspec.structs.replace(entry, source_address_header=header, forward_fingerprint=prints)


class House:
    """An acceptor with a route for each header and way, all to one upstream."""

    def __init__(self, rig: AcceptorRig, process: ActorProcess, upstream: UpstreamHost) -> None:
        self.rig = rig
        self.process = process
        self.upstream = upstream

    def terminated(
        self, name: str, context: ssl.SSLContext | None = None, session: ssl.SSLSession | None = None
    ) -> tuple[ssl.SSLSocket, PlainPeer]:
        client = (context or client_context()).wrap_socket(
            connect(self.rig.port), server_hostname=name, session=session
        )
        return client, self.upstream.accept()

    def passed(self, name: str) -> tuple[PlainPeer, PlainPeer, bytes]:
        """A client, the upstream's end, and the ClientHello that comes first."""
        client = PlainPeer(connect(self.rig.port))
        client.sock.settimeout(None)
        hello = SteppedClient(name, client_context(alpn=("h2", "http/1.1"))).hello()
        client.send(hello)
        return client, self.upstream.accept(), hello

    def told(self, name: str, context: ssl.SSLContext | None = None) -> Received:
        """What the upstream is told of one terminated connection."""
        client, server = self.terminated(name, context)
        with client, server.sock:
            return receive_header(server)


@pytest.fixture(params=["tcp", "uds"], scope="module")
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    upstream = UpstreamHost(request.param)
    target: Upstream = (
        UdsUpstream(path=upstream.path)
        if request.param == "uds"
        else TcpUpstream(host="127.0.0.1", port=upstream.port)
    )
    routes = snapshot(
        route("plain.test", target),
        telling(route("v1.test", target), "proxy_protocol"),
        telling(route("v2.test", target), "proxy_protocol_v2"),
        telling(route("prints.test", target), "proxy_protocol_v2", "ja4", "ja3"),
        telling(route("ja4.test", target), "proxy_protocol_v2", "ja4"),
        telling(route("h2.test", target, policy=2), "proxy_protocol_v2"),
        telling(route("mutual.test", target, policy=1), "proxy_protocol_v2"),
        telling(route("mutual1.test", target, policy=1), "proxy_protocol"),
        telling(route("pass1.test", target, terminate=False), "proxy_protocol"),
        telling(route("pass2.test", target, terminate=False), "proxy_protocol_v2", "ja3", "ja4"),
        telling(route("", target), "proxy_protocol_v2"),
        more=[Tls(authority=CLIENTS), Tls(http2=True)],
    )
    try:
        with Stage() as stage, running(stage, routes) as (rig, process):
            yield House(rig, process, upstream)
            assert complaints(process) == []
    finally:
        upstream.close()


# What it says


def test_version_1(house: House) -> None:
    client, server = house.terminated("v1.test")
    with client, server.sock:
        source, destination = addresses(client)
        assert receive_header(server).raw == encode_v1(source, destination)


def test_version_2_of_a_terminated_connection(house: House) -> None:
    client, server = house.terminated("v2.test", client_context(alpn=("http/1.1",)))
    with client, server.sock:
        found = receive_header(server).header
        assert (found.version, found.local) == (2, False)
        assert (found.source, found.destination) == addresses(client)
        said = proxy_tlv.read_ssl(tlv(found, proxy_tlv.SSL) or b"")
        cipher = client.cipher()
        assert cipher is not None
        assert said == proxy_tlv.Ssl(version=b"TLSv1.3", cipher=cipher[0].encode())
        assert tlv(found, proxy_tlv.ALPN) == b"http/1.1"
        assert tlv(found, proxy_tlv.AUTHORITY) == b"v2.test"
        kinds = [kind for kind, _ in found.tlvs]
        assert sorted(kinds) == sorted(
            [proxy_tlv.ALPN, proxy_tlv.AUTHORITY, proxy_tlv.UNIQUE_ID, proxy_tlv.SSL, proxy_tlv.CRC32C]
        )


def test_version_2_says_what_was_agreed(house: House) -> None:
    old = house.told(
        "h2.test", client_context(version=ssl.TLSVersion.TLSv1_2, alpn=("h2", "http/1.1"))
    ).header
    said = proxy_tlv.read_ssl(tlv(old, proxy_tlv.SSL) or b"")
    assert said is not None
    assert (said.version, said.cipher[:6]) == (b"TLSv1.2", b"ECDHE-")
    assert tlv(old, proxy_tlv.ALPN) == b"h2"
    # a client that offers no ALPN, and one without a server name
    bare = house.told("v2.test").header
    assert tlv(bare, proxy_tlv.ALPN) is None
    client = client_context().wrap_socket(connect(house.rig.port))
    server = house.upstream.accept()
    with client, server.sock:
        assert tlv(receive_header(server).header, proxy_tlv.AUTHORITY) is None


def test_every_connection_has_an_id_of_its_own(house: House) -> None:
    ids = [tlv(house.told("v2.test").header, proxy_tlv.UNIQUE_ID) for _ in range(5)]
    assert len(set(ids)) == 5
    assert all(found and len(found) < 40 for found in ids)


def test_fingerprints_only_where_asked_for(house: House) -> None:
    context = client_context(alpn=("h2",))
    found = {name: house.told(name, context).header for name in ("prints.test", "ja4.test", "v2.test")}
    assert tlv(found["v2.test"], proxy_tlv.JA3) is None
    assert tlv(found["v2.test"], proxy_tlv.JA4) is None
    assert tlv(found["ja4.test"], proxy_tlv.JA3) is None
    # the same library's hello for the same name, made aside
    hello = parse(SteppedClient("prints.test", context).hello())
    assert isinstance(hello, ClientHello)
    assert tlv(found["prints.test"], proxy_tlv.JA3) == fingerprint.ja3(hello)[1].encode()
    assert tlv(found["prints.test"], proxy_tlv.JA4) == fingerprint.ja4(hello).encode()
    assert tlv(found["ja4.test"], proxy_tlv.JA4) == fingerprint.ja4(hello).encode()


def test_passthrough_is_told_what_the_hello_says(house: House) -> None:
    client, server, hello = house.passed("pass2.test")
    with client.sock, server.sock:
        found = receive_header(server).header
        assert (found.source, found.destination) == addresses(client.sock)
        assert tlv(found, proxy_tlv.AUTHORITY) == b"pass2.test"
        assert tlv(found, proxy_tlv.UNIQUE_ID)
        read = parse(hello)
        assert isinstance(read, ClientHello)
        assert tlv(found, proxy_tlv.JA3) == fingerprint.ja3(read)[1].encode()
        assert tlv(found, proxy_tlv.JA4) == fingerprint.ja4(read).encode()
        # what is not decrypted is not vouched for
        assert tlv(found, proxy_tlv.SSL) is None
        assert tlv(found, proxy_tlv.ALPN) is None
        assert receive_exactly(server, len(hello)) == hello


def test_the_upstream_is_told_before_the_client_has_said_anything(house: House) -> None:
    """A server that speaks first must not wait for a client that waits for it."""
    client, server = house.terminated("v2.test")
    with client, server.sock:
        receive_header(server)
        server.send(b"220 ready")
        assert client.recv(100) == b"220 ready"


# Client certificates


def certificates(header: Header) -> list[bytes]:
    return [value for kind, value in header.tlvs if kind == proxy_tlv.CLIENT_CERTIFICATE]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_comes_with_its_chain(house: House, version: ssl.TLSVersion) -> None:
    found = house.told("mutual.test", client_context(version=version, certificate=ALICE)).header
    said = proxy_tlv.read_ssl(tlv(found, proxy_tlv.SSL) or b"")
    assert said is not None
    assert said.common_name == b"alice"
    assert said.certificate_on_connection and said.certificate_in_session and said.verified
    sent = ders(ALICE.chain_pem)
    assert len(sent) == 3
    assert certificates(found) == sent
    without = house.told("mutual.test", client_context(version=version)).header
    said = proxy_tlv.read_ssl(tlv(without, proxy_tlv.SSL) or b"")
    assert said is not None
    assert not (said.certificate_on_connection or said.certificate_in_session or said.verified)
    assert certificates(without) == []
    with_v1 = house.told("mutual1.test", client_context(version=version, certificate=ALICE))
    assert with_v1.header.version == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_resumed_session_has_the_leaf_of_its_first_connection(
    house: House, version: ssl.TLSVersion
) -> None:
    context = client_context(version=version, certificate=ALICE)
    client, server = house.terminated("mutual.test", context)
    with client, server.sock:
        assert certificates(receive_header(server).header) == ders(ALICE.chain_pem)
        server.send(b"x")
        assert client.recv(1) == b"x"  # the tickets of TLS 1.3 have come before it
        session = client.session
    before = house.rig.total(RESUMED)
    client, server = house.terminated("mutual.test", context, session)
    with client, server.sock:
        found = receive_header(server).header
        assert house.rig.total(RESUMED) == before + 1
        said = proxy_tlv.read_ssl(tlv(found, proxy_tlv.SSL) or b"")
        assert said is not None
        assert (said.certificate_on_connection, said.certificate_in_session) == (False, True)
        assert (said.common_name, said.verified) == (b"alice", True)
        assert certificates(found) == ders(ALICE.chain_pem)[:1]


def heavy(subject: str, weight: int, authority: Authority, *, ca: bool) -> MadeCertificate:
    """A certificate of about `weight` bytes."""
    made = make_authority(subject, authority=authority)
    key = load_pem_private_key(made.key_pem, None)
    issuer_key = load_pem_private_key(authority.key_pem, None)
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.load_pem_x509_certificates(authority.cert_pem)[0].subject)
        .public_key(key.public_key())  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"x" * weight), critical=False
        )
        .sign(issuer_key, hashes.SHA256())  # type: ignore[arg-type]
    )
    return MadeCertificate(certificate.public_bytes(Encoding.PEM), made.key_pem)


def test_a_chain_that_no_header_can_hold_is_cut_to_its_leaf(house: House) -> None:
    middle = heavy("heavy middle", 40_000, ROOT, ca=True)
    leaf = heavy("bob", 30_000, Authority(middle.chain_pem, middle.key_pem), ca=False)
    chain = MadeCertificate(leaf.chain_pem + middle.chain_pem, leaf.key_pem)
    # a header of this size is also one that a socket may not take at once
    client, server = house.terminated("mutual.test", client_context(certificate=chain))
    with client, server.sock:
        client.sendall(b"behind it")
        found = receive_header(server)
        assert certificates(found.header) == ders(leaf.chain_pem)
        said = proxy_tlv.read_ssl(tlv(found.header, proxy_tlv.SSL) or b"")
        assert said is not None and said.common_name == b"bob"
        assert receive_exactly(server, 9) == b"behind it"
    (line,) = logged(house.process, "client_chain_cut")[-1:]
    assert (line["certificates"], line["sent"], line["level"]) == (2, 1, "warning")
    assert line["id"] == (tlv(found.header, proxy_tlv.UNIQUE_ID) or b"").decode()


def test_a_leaf_that_no_header_can_hold_is_left_out(house: House) -> None:
    leaf = heavy("carol", 70_000, ROOT, ca=False)
    # without tickets, since OpenSSL fails over one that must hold such a leaf
    context = client_context(version=ssl.TLSVersion.TLSv1_2, certificate=leaf)
    context.options |= ssl.OP_NO_TICKET
    found = house.told("mutual.test", context).header
    said = proxy_tlv.read_ssl(tlv(found, proxy_tlv.SSL) or b"")
    assert said is not None and said.common_name == b"carol" and said.verified
    assert certificates(found) == []


def logged(process: ActorProcess, event: str) -> list[dict[str, object]]:
    lines = [msgspec.json.decode(line) for line in process.log().splitlines()]
    return [line for line in lines if line["event"] == event]


# Every byte behind it


@pytest.mark.parametrize("name", ["plain.test", "v1.test", "v2.test"])
def test_terminated_bytes_are_the_clients_own(house: House, name: str) -> None:
    size = 3_000_001
    up, down = random.Random(1).randbytes(size), random.Random(2).randbytes(size)
    client, server = house.terminated(name)
    with client, server.sock:
        sending = Background(lambda: client.sendall(up))
        if name != "plain.test":
            receive_header(server)
        assert receive_exactly(server, size) == up
        sending.result()
        sending = Background(lambda: server.send(down))
        got = b""
        while len(got) < size:
            got += client.recv(65536)
        assert got == down
        sending.result()


@pytest.mark.parametrize("name", ["pass1.test", "pass2.test"])
@pytest.mark.parametrize("size", [1, 5_000, 8 << 20])
def test_passthrough_bytes_are_the_clients_own(house: House, name: str, size: int) -> None:
    """The small ones are copied, the large ones spliced."""
    client, server, hello = house.passed(name)
    with client.sock, server.sock:
        up = random.Random(size).randbytes(size)
        check_passed_through(client, server, hello + up, Background(lambda: client.send(up)))


def test_a_client_that_has_already_ended(house: House) -> None:
    """All that it sent, and its end, come behind the header."""
    client, server, hello = house.passed("pass1.test")
    with client.sock, server.sock:
        client.send(b"last words")
        client.end()
        receive_header(server)
        assert receive_all(server) == hello + b"last words"
        server.send(b"answer")
        server.sock.close()
        assert receive_all(client) == b"answer"


# What it leaves behind


def test_nothing_is_left_behind(house: House) -> None:
    wait_until(lambda: house.rig.active == 0, "all are over")
    open_before = descriptors(house.process.pid)
    for _ in range(20):
        house.told("mutual.test", client_context(certificate=ALICE))
        client, server, _ = house.passed("pass2.test")
        client.sock.close()
        receive_all(server)
        server.sock.close()
    wait_until(lambda: house.rig.active == 0, "all are over")
    wait_until(lambda: descriptors(house.process.pid) <= open_before, "the descriptors are back")
