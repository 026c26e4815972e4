"""What people want to know of a certificate chain: whom it names, who vouches for it, and for how long."""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from msgspec import Struct


class CertificateFacts(Struct, frozen=True, array_like=True):
    """Of a chain whose leaf is the first: `not_after` (seconds since the epoch) is when the first of them expires.

    `names` are the leaf's DNS names and addresses, or its common name where it has none. `fingerprint` is the SHA-256
    of the leaf, in hexadecimal.
    """

    names: tuple[str, ...]
    issuer: str
    key_type: str
    not_before: float
    not_after: float
    fingerprint: str


def read_facts(chain_pem: bytes) -> CertificateFacts:
    """Read a chain that has been checked. Raises ValueError when it is none."""
    chain = x509.load_pem_x509_certificates(chain_pem)
    leaf = chain[0]
    return CertificateFacts(
        names=_names(leaf),
        issuer="itself" if leaf.issuer == leaf.subject else _name(leaf.issuer),
        key_type=_key_type(leaf),
        not_before=max(each.not_valid_before_utc for each in chain).timestamp(),
        not_after=min(each.not_valid_after_utc for each in chain).timestamp(),
        fingerprint=hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest(),
    )


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return tuple(_texts(leaf.subject, NameOID.COMMON_NAME))
    addresses = (str(address) for address in found.get_values_for_type(x509.IPAddress))
    return (*found.get_values_for_type(x509.DNSName), *addresses)


def _name(name: x509.Name) -> str:
    """The shortest of a name's parts that tells it from others."""
    parts = _texts(name, NameOID.COMMON_NAME) or _texts(name, NameOID.ORGANIZATION_NAME)
    return parts[0] if parts else name.rfc4514_string()


def _texts(name: x509.Name, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(attribute.value) for attribute in name.get_attributes_for_oid(oid)]


def _key_type(leaf: x509.Certificate) -> str:
    match leaf.public_key():
        case ec.EllipticCurvePublicKey() as key:
            return f"EC {key.curve.name}"
        case rsa.RSAPublicKey() as key:
            return f"RSA {key.key_size}"
        case ed25519.Ed25519PublicKey():
            return "Ed25519"
        case ed448.Ed448PublicKey():
            return "Ed448"
        case key:
            return type(key).__name__.removesuffix("PublicKey")
