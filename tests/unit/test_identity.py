"""Certificates, keys and authorities: what the maker makes, and what the examination finds."""

from __future__ import annotations

import ssl
import tempfile
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from symphony.config.problem import Severity
from symphony.config.snapshot import ClientAuthority, Identity, TlsPolicy
from symphony.tls.certificate_maker import Authority, MadeCertificate, make_authority, make_certificate
from symphony.tls.context import RouteContext
from symphony.tls.identity import Finding, Part, examine_authorities, examine_identity

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def root() -> Authority:
    return make_authority("Test Root")


@pytest.fixture(scope="module")
def made(root: Authority) -> MadeCertificate:
    return make_certificate(["a.example"], authority=make_authority("Test Intermediate", authority=root))


def only(findings: tuple[Finding, ...]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def pem_of(key: object, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)  # type: ignore[attr-defined]


def self_signed(key: object, algorithm: object = None) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
    builder = builder.public_key(key.public_key()).not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)  # type: ignore[attr-defined]
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)  # type: ignore[arg-type]


def blocks(pem: bytes) -> list[bytes]:
    return [
        block + b"-----END CERTIFICATE-----\n" for block in pem.split(b"-----END CERTIFICATE-----\n")[:-1]
    ]


@pytest.mark.parametrize("key_type", ["ec", "rsa"])
@pytest.mark.parametrize("signed", [True, False])
def test_a_made_certificate_is_in_order(key_type: str, signed: bool, root: Authority) -> None:
    made = make_certificate(
        ["a.example", "*.b.example", "127.0.0.1", "::1"],
        authority=root if signed else None,
        key_type=key_type,  # type: ignore[arg-type]
    )
    assert examine_identity(made.chain_pem, made.key_pem, NOW) == ()
    leaf = x509.load_pem_x509_certificate(made.chain_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.example", "*.b.example"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


@pytest.mark.parametrize("anchored", ["root", "leaf"])
def test_a_real_client_accepts_a_made_certificate(anchored: str, root: Authority) -> None:
    above = make_authority("Between", authority=root)
    made = make_certificate(["a.example"], authority=above if anchored == "root" else None)
    anchor = root.cert_pem if anchored == "root" else made.chain_pem
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(made.chain_pem + made.key_pem)
        file.flush()
        server.load_cert_chain(file.name)
    client = ssl.create_default_context(cadata=anchor.decode())
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = client.wrap_bio(to_client, to_server, server_hostname="a.example")
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    pending = {client_side, server_side}
    for _ in range(10):
        for side in list(pending):
            try:
                side.do_handshake()
                pending.discard(side)
            except ssl.SSLWantReadError:
                continue
    assert not pending


def test_a_made_client_certificate_is_for_clients_only(root: Authority) -> None:
    leaf = x509.load_pem_x509_certificate(make_certificate(["me"], authority=root, client=True).chain_pem)
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]


def test_a_certificate_needs_a_name() -> None:
    with pytest.raises(ValueError, match="name"):
        make_certificate([])


def test_made_keys_are_not_printed(made: MadeCertificate, root: Authority) -> None:
    assert "PRIVATE" not in repr(made) + repr(root)


def test_a_key_of_another_certificate(made: MadeCertificate) -> None:
    other = make_certificate(["b.example"])
    finding = only(examine_identity(made.chain_pem, other.key_pem, NOW))
    assert (finding.part, finding.severity) == (Part.KEY, Severity.ERROR)
    assert "does not match" in finding.text


def test_a_chain_that_does_not_begin_with_the_leaf(made: MadeCertificate) -> None:
    chain = b"".join(reversed(blocks(made.chain_pem)))
    finding = only(examine_identity(chain, made.key_pem, NOW))
    assert finding.part is Part.CHAIN
    assert "place 2 of 2: expected it first" in finding.text


def test_a_chain_with_a_stranger_in_it(made: MadeCertificate) -> None:
    chain = blocks(made.chain_pem)[0] + make_certificate(["other"]).chain_pem
    finding = only(examine_identity(chain, made.key_pem, NOW))
    assert finding.severity is Severity.WARNING
    assert "did not issue" in finding.text


def test_expiry_is_a_warning(root: Authority) -> None:
    made = make_certificate(["a"], authority=root, not_before=NOW - 2 * DAY, not_after=NOW - DAY)
    finding = only(examine_identity(made.chain_pem, made.key_pem, NOW))
    assert finding.severity is Severity.WARNING
    assert f"expired on {NOW - DAY:%Y-%m-%d}" in finding.text
    assert examine_identity(made.chain_pem, made.key_pem, NOW - DAY - timedelta(hours=1)) == ()


def test_a_certificate_of_the_future_is_a_warning() -> None:
    made = make_certificate(["a"], not_before=NOW + DAY, not_after=NOW + 2 * DAY)
    finding = only(examine_identity(made.chain_pem, made.key_pem, NOW))
    assert finding.severity is Severity.WARNING
    assert f"not valid before {NOW + DAY:%Y-%m-%d}" in finding.text


def test_an_expired_intermediate_is_named_by_its_place(root: Authority) -> None:
    above = make_authority("Old", authority=root, not_before=NOW - 2 * DAY, not_after=NOW - DAY)
    made = make_certificate(["a"], authority=above)
    assert "(2 of 2) that expired" in only(examine_identity(made.chain_pem, made.key_pem, NOW)).text


@pytest.mark.parametrize(
    "style", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL]
)
def test_an_encrypted_key(made: MadeCertificate, style: serialization.PrivateFormat) -> None:
    key = serialization.load_pem_private_key(made.key_pem, None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM, style, serialization.BestAvailableEncryption(b"secret")
    )
    finding = only(examine_identity(made.chain_pem, encrypted, NOW))
    assert finding.part is Part.KEY
    assert "is encrypted" in finding.text


def test_kinds_of_keys_that_tls_cannot_use(made: MadeCertificate) -> None:
    finding = only(examine_identity(made.chain_pem, pem_of(dsa.generate_private_key(1024)), NOW))
    assert "expected RSA, ECDSA or Ed25519" in finding.text


def test_an_ed25519_identity_is_in_order() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    assert examine_identity(self_signed(key), pem_of(key), NOW) == ()


@pytest.mark.parametrize(
    "weak",
    [
        lambda: (rsa.generate_private_key(65537, 1024), hashes.SHA256()),
        lambda: (ec.generate_private_key(ec.SECP192R1()), hashes.SHA256()),
    ],
    ids=["rsa-1024", "p-192"],
)
def test_what_openssl_will_not_serve_with_is_refused_here_already(weak: object) -> None:
    key, algorithm = weak()  # type: ignore[operator]
    finding = only(examine_identity(self_signed(key, algorithm), pem_of(key), NOW))
    assert finding.severity is Severity.ERROR
    assert "refused by OpenSSL" in finding.text


def test_a_damaged_rsa_key_is_found_by_its_signature() -> None:
    made = make_certificate(["a"], key_type="rsa")
    key = serialization.load_pem_private_key(made.key_pem, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    numbers = key.private_numbers()
    damaged = rsa.RSAPrivateNumbers(
        p=numbers.p,
        q=numbers.q,
        d=numbers.d + 2,
        dmp1=numbers.dmp1 + 2,
        dmq1=numbers.dmq1,
        iqmp=numbers.iqmp,
        public_numbers=numbers.public_numbers,
    ).private_key(unsafe_skip_rsa_key_validation=True)
    finding = only(examine_identity(made.chain_pem, pem_of(damaged), NOW))
    assert "not a working RSA key" in finding.text


BROKEN_BLOCK = "-----BEGIN {0}-----\nAAAA\n-----END {0}-----\n"


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        (b"", "not PEM"),
        (b"\x30\x82\x01\x00", "not PEM"),
        (BROKEN_BLOCK.format("PRIVATE KEY").encode(), "no CERTIFICATE block"),
        (BROKEN_BLOCK.format("CERTIFICATE").encode(), "cannot be decoded"),
    ],
)
def test_chains_that_are_none(chain: bytes, reason: str, made: MadeCertificate) -> None:
    finding = only(examine_identity(chain, made.key_pem, NOW))
    assert finding.part is Part.CHAIN
    assert reason in finding.text
    assert reason in only(examine_authorities(chain, NOW)).text


def test_a_chain_whose_end_is_missing(made: MadeCertificate) -> None:
    finding = only(examine_identity(made.chain_pem[:-60], made.key_pem, NOW))
    assert "cut off" in finding.text


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (b"", "not PEM"),
        (BROKEN_BLOCK.format("CERTIFICATE").encode(), "no PRIVATE KEY block"),
        (BROKEN_BLOCK.format("PRIVATE KEY").encode(), "cannot be decoded"),
        (BROKEN_BLOCK.format("ENCRYPTED PRIVATE KEY").encode(), "is encrypted"),
    ],
)
def test_keys_that_are_none(key: bytes, reason: str, made: MadeCertificate) -> None:
    finding = only(examine_identity(made.chain_pem, key, NOW))
    assert finding.part is Part.KEY
    assert reason in finding.text


def test_both_halves_are_looked_at_in_one_go() -> None:
    assert [finding.part for finding in examine_identity(b"", b"", NOW)] == [Part.CHAIN, Part.KEY]


def test_authorities(root: Authority) -> None:
    old = make_authority("Old", not_before=NOW - 2 * DAY, not_after=NOW - DAY)
    assert examine_authorities(root.cert_pem, NOW) == ()
    assert "(2 of 2) that expired" in only(examine_authorities(root.cert_pem + old.cert_pem, NOW)).text


def test_what_is_found_in_order_makes_a_context(made: MadeCertificate, root: Authority) -> None:
    """Also with key and chain in one file, as some tools write them."""
    both = made.key_pem + made.chain_pem
    assert examine_identity(both, both, NOW) == ()
    RouteContext(TlsPolicy("i", "a", True), Identity(both, both), ClientAuthority(root.cert_pem, True))
