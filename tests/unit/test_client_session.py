"""What is read out of a client's TLS session, and that reading it costs no memory for good."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from symphony.config.snapshot import ClientAuthority, TlsPolicy
from symphony.connection.identity import MAX_COMMON_NAME, proxy_header
from symphony.relay import proxy_tlv
from symphony.relay.proxy_protocol import Header, parse
from symphony.tls import library
from symphony.tls.certificate_maker import MadeCertificate, make_authority, make_certificate
from symphony.tls.context import BaseContext, RouteContext
from tests.support.acceptor import IDENTITY, resident_kib
from tests.support.proxy_headers import tlv
from tests.support.tls_client import SteppedClient, client_context

ISSUER = make_authority("issuer", authority=make_authority("root"))
ALICE = make_certificate(["alice"], authority=ISSUER, client=True)


@contextmanager
def session_of(
    certificate: MadeCertificate | None, authority_pem: bytes = ISSUER.cert_pem, **options: Any
) -> Iterator[Any]:
    """The server's side of a finished handshake."""
    context = RouteContext(
        TlsPolicy("identity", "clients", True), IDENTITY, ClientAuthority(authority_pem, False)
    )
    base = BaseContext()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(10)
        ours.setblocking(False)
        session = library.new_server_session(base.pointer, context.pointer, context.verify, ours.fileno())
        client = SteppedClient("localhost", client_context(certificate=certificate, **options))
        theirs.sendall(client.hello())
        while (returned := library.do_handshake(session)) != 1:
            assert library.outcome(session, returned) == library.WANT_READ, library.last_error()
            theirs.sendall(client.answer(theirs))
        try:
            yield session
        finally:
            library.free(session)


def chain_of(certificate: MadeCertificate) -> list[bytes]:
    return [
        found.public_bytes(Encoding.DER) for found in x509.load_pem_x509_certificates(certificate.chain_pem)
    ]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_was_agreed(version: ssl.TLSVersion) -> None:
    with session_of(None, version=version, alpn=("h2", "http/1.1")) as session:
        name, cipher, protocol = library.negotiated(session)
        assert name == {ssl.TLSVersion.TLSv1_2: b"TLSv1.2", ssl.TLSVersion.TLSv1_3: b"TLSv1.3"}[version]
        assert cipher in (b"ECDHE-ECDSA-AES128-GCM-SHA256", b"TLS_AES_128_GCM_SHA256")
        assert protocol == b"h2"
        assert library.client_certificates(session) == ([], b"")
    with session_of(None, version=version) as session:
        assert library.negotiated(session)[2] == b""


def test_certificates() -> None:
    with session_of(ALICE) as session:
        assert library.client_certificates(session) == (chain_of(ALICE), b"alice")
        assert library.is_verified(session)


def named(*names: x509.NameAttribute) -> MadeCertificate:
    """A certificate with that subject; it is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    template = x509.load_pem_x509_certificate(ALICE.chain_pem)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(names))
        .issuer_name(x509.Name(names))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(template.not_valid_before_utc)
        .not_valid_after(template.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return MadeCertificate(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


COMMON, ORGANISATION = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME
UTF8, BMP = _ASN1Type.UTF8String, _ASN1Type.BMPString


@pytest.mark.parametrize(
    ("names", "found", "told"),
    [
        ([(COMMON, "Zoë", UTF8)], "Zoë".encode(), "Zoë".encode()),
        ([(COMMON, "Zoë", BMP)], "Zoë".encode(), "Zoë".encode()),
        ([(COMMON, "first", UTF8), (COMMON, "second", UTF8)], b"first", b"first"),
        ([(ORGANISATION, "only", UTF8)], b"", b""),
        ([(COMMON, "admin\0.evil", UTF8)], b"admin\0.evil", b""),
        ([(COMMON, "x" * MAX_COMMON_NAME, UTF8)], b"x" * MAX_COMMON_NAME, b"x" * MAX_COMMON_NAME),
        ([(COMMON, "x" * (MAX_COMMON_NAME + 1), UTF8)], b"x" * (MAX_COMMON_NAME + 1), b""),
    ],
    ids=["utf8", "bmp", "two", "none", "nul", "long", "too long"],
)
@pytest.mark.filterwarnings("ignore:Attribute's length must be")
def test_common_names(names: list[tuple[Any, str, _ASN1Type]], found: bytes, told: bytes) -> None:
    certificate = named(*[x509.NameAttribute(*each, _validate=False) for each in names])
    with session_of(certificate, certificate.chain_pem) as session:
        assert library.client_certificates(session) == (chain_of(certificate), found)
        header = parse(
            proxy_header("proxy_protocol_v2", ("192.0.2.1", 1), ("192.0.2.2", 2), "id", None, session)
        )
        assert isinstance(header, Header)
        said = proxy_tlv.read_ssl(tlv(header, proxy_tlv.SSL) or b"")
        assert said is not None and said.certificate_on_connection and said.verified
        assert said.common_name == told


def test_reading_leaks_nothing() -> None:
    """One certificate that is not freed shows as 6 MB."""
    with session_of(ALICE, alpn=("http/1.1",)) as session:

        def read(times: int) -> None:
            for _ in range(times):
                library.client_certificates(session)
                library.negotiated(session)
                library.is_verified(session)

        read(500)
        before = resident_kib(os.getpid())
        read(8000)
        assert resident_kib(os.getpid()) < before + 2000
