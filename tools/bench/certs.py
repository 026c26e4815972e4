"""Throw-away certificates for the benchmark: ECDSA P-256 and RSA-2048."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class KeyPair:
    """A self-signed certificate as files: chain, key, and both in one (what HAProxy, hitch and stunnel read)."""

    chain: Path
    key: Path
    both: Path


def make(directory: Path, name: str, algorithm: str, stem: str | None = None) -> KeyPair:
    """Make a certificate for `name` with an `ecdsa` (P-256) or `rsa` (2048 bits) key, and write its files."""
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    if algorithm == "ecdsa":
        key = ec.generate_private_key(ec.SECP256R1())
    elif algorithm == "rsa":
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    else:
        raise ValueError(f"unknown algorithm {algorithm!r}")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    stem = stem or algorithm
    pair = KeyPair(directory / f"{stem}.crt", directory / f"{stem}.key", directory / f"{stem}.pem")
    for path, data in ((pair.chain, chain), (pair.key, secret), (pair.both, chain + secret)):
        path.touch(mode=0o600)
        path.write_bytes(data)
    return pair
