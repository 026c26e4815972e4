"""Makes certificates for the demo and for tests: authorities, server and client leaves, all as PEM.

Keys are made anew on every call and are never reused. Nothing here is meant to replace a real authority.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

KeyType = Literal["ec", "rsa"]
_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_CLOCK_SKEW = timedelta(hours=1)
_LIFETIME = timedelta(days=365)
_COMMON_NAME_LIMIT = 64  # RFC 5280 appendix A.1, ub-common-name


class Authority(Struct, frozen=True):
    """A certificate authority. `cert_pem` holds its own certificate, then intermediates above it."""

    cert_pem: bytes
    key_pem: bytes

    def __repr__(self) -> str:
        """Print no key."""
        return "Authority(...)"


class MadeCertificate(Struct, frozen=True):
    """A leaf with its key. `chain_pem` is the leaf, then any intermediate authorities."""

    chain_pem: bytes
    key_pem: bytes

    def __repr__(self) -> str:
        """Print no key."""
        return "MadeCertificate(...)"


def make_authority(
    name: str,
    *,
    authority: Authority | None = None,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> Authority:
    """Make a root authority, or, given another `authority`, an intermediate one signed by it.

    Times are aware datetimes; they default to an hour ago and a year from now.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    builder, signer, above = _begin(name, key, authority, not_before, not_after)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    certificate = builder.sign(signer, hashes.SHA256())
    return Authority(cert_pem=_pem(certificate) + above, key_pem=_key_pem(key))


def make_certificate(
    names: Sequence[str],
    *,
    authority: Authority | None = None,
    key_type: KeyType = "ec",
    not_before: datetime | None = None,
    not_after: datetime | None = None,
    client: bool = False,
) -> MadeCertificate:
    """Make a leaf for `names` (DNS names as A-labels, ``*.`` included, or IP addresses).

    Without an `authority` it is self-signed, and serves as its own trust anchor. `key_type` is EC P-256 or
    RSA-2048. A `client` certificate carries the client purpose instead of the server one.

    Raises ValueError when `names` is empty.
    """
    if not names:
        raise ValueError("a certificate needs at least one name")
    key: _PrivateKey
    if key_type == "ec":
        key = ec.generate_private_key(ec.SECP256R1())
    else:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    builder, signer, above = _begin(names[0], key, authority, not_before, not_after)
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return MadeCertificate(chain_pem=_pem(certificate) + above, key_pem=_key_pem(key))


def _begin(
    name: str,
    key: _PrivateKey,
    authority: Authority | None,
    not_before: datetime | None,
    not_after: datetime | None,
) -> tuple[x509.CertificateBuilder, _PrivateKey, bytes]:
    """Return a builder lacking only the purpose, the signing key, and the rest of the chain as PEM."""
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_COMMON_NAME_LIMIT])])
    issuer, signer, above = subject, key, b""
    issuer_key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    if authority is not None:
        certificates = x509.load_pem_x509_certificates(authority.cert_pem)
        issuer = certificates[0].subject
        loaded = serialization.load_pem_private_key(authority.key_pem, password=None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise ValueError("the authority's key is neither EC nor RSA")
        signer = loaded
        issuer_key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        above = b"".join(_pem(certificate) for certificate in certificates if not _is_root(certificate))
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before or now - _CLOCK_SKEW)
        .not_valid_after(not_after or now + _LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer_key_id, critical=False)
    )
    return builder, signer, above


def _is_root(certificate: x509.Certificate) -> bool:
    return certificate.subject == certificate.issuer


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: _PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
