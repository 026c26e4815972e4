"""Looks at certificates, keys and authorities before anything serves with them: bytes in, findings out.

No finding ever repeats what stands in a key.
"""

from __future__ import annotations

import warnings
from datetime import datetime
from enum import StrEnum
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Struct
from OpenSSL import SSL

from symphony.config.problem import Severity

ServerKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

_CERTIFICATE_HEAD = b"-----BEGIN CERTIFICATE-----"
_PROBE = b"does this key sign?"


class Part(StrEnum):
    """What a finding is about."""

    CHAIN = "chain"
    KEY = "key"


class Finding(Struct, frozen=True):
    """One thing that is wrong with a certificate chain or its key. `text` follows the name of where it comes from."""

    part: Part
    text: str
    severity: Severity = Severity.ERROR


class _Unusable(Exception):
    """Ends an examination with its one finding."""

    def __init__(self, part: Part, text: str) -> None:
        super().__init__(text)
        self.finding = Finding(part, text)


def examine_identity(chain_pem: bytes, key_pem: bytes, now: datetime) -> tuple[Finding, ...]:
    """Return what is wrong with a server's certificate chain (leaf first) and private key.

    An error means that no TLS context can be made of the pair; a warning, that clients may refuse it. `now` is an
    aware datetime, which the validity of each certificate is compared to.
    """
    findings: list[Finding] = []
    chain: list[x509.Certificate] = []
    key: ServerKey | None = None
    try:
        chain = _load_chain(chain_pem)
        findings.extend(_examine_validity(chain, now))
    except _Unusable as unusable:
        findings.append(unusable.finding)
    try:
        key = _load_key(key_pem)
    except _Unusable as unusable:
        findings.append(unusable.finding)
    if chain and key is not None:
        try:
            _match(chain, key)
            _try_in_openssl(chain, key)
            findings.extend(_examine_order(chain))
        except _Unusable as unusable:
            findings.append(unusable.finding)
    return tuple(findings)


def examine_authorities(ca_pem: bytes, now: datetime) -> tuple[Finding, ...]:
    """Return what is wrong with a bundle of authorities that client certificates must come from."""
    try:
        return tuple(_examine_validity(_load_chain(ca_pem), now))
    except _Unusable as unusable:
        return (unusable.finding,)


def _load_chain(pem: bytes) -> list[x509.Certificate]:
    if b"-----BEGIN " not in pem:
        raise _Unusable(Part.CHAIN, "is not PEM: expected one or more CERTIFICATE blocks")
    if _CERTIFICATE_HEAD not in pem:
        raise _Unusable(Part.CHAIN, "has no CERTIFICATE block: expected the chain as PEM, leaf first")
    try:
        with warnings.catch_warnings():
            # The library warns of odd serial numbers and the like; what matters here is whether TLS works.
            warnings.simplefilter("ignore")
            chain = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise _Unusable(Part.CHAIN, "has a CERTIFICATE block that cannot be decoded") from None
    if len(chain) != pem.count(_CERTIFICATE_HEAD):
        # The library skips a last block without an end, and a chain without its intermediate fails at clients only.
        raise _Unusable(Part.CHAIN, "has a CERTIFICATE block that is cut off")
    return chain


def _load_key(pem: bytes) -> ServerKey:
    if b"-----BEGIN " not in pem:
        raise _Unusable(Part.KEY, "is not PEM: expected a PRIVATE KEY block")
    if b"PRIVATE KEY-----" not in pem:
        raise _Unusable(Part.KEY, "has no PRIVATE KEY block")
    encrypted = (
        "is encrypted: expected a key without a passphrase, since nobody is there to type it at a start"
    )
    try:
        # The full check of an RSA key takes 50 ms; a trial signature below takes one, and shows what matters.
        key = load_pem_private_key(pem, password=None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise _Unusable(Part.KEY, encrypted) from None
    except UnsupportedAlgorithm:
        raise _Unusable(
            Part.KEY, "has an algorithm that is not supported: expected RSA, ECDSA or Ed25519"
        ) from None
    except ValueError:
        # An encrypted key with a broken header is a ValueError too.
        damaged = encrypted if b"ENCRYPTED" in pem else "has a PRIVATE KEY block that cannot be decoded"
        raise _Unusable(Part.KEY, damaged) from None
    if not isinstance(key, ServerKey):
        raise _Unusable(Part.KEY, "is of a kind that TLS servers cannot use: expected RSA, ECDSA or Ed25519")
    if isinstance(key, rsa.RSAPrivateKey) and not _signs(key):
        raise _Unusable(
            Part.KEY, "is not a working RSA key: its own public half does not verify what it signs"
        )
    return key


def _signs(key: rsa.RSAPrivateKey) -> bool:
    try:
        signature = key.sign(_PROBE, padding.PKCS1v15(), hashes.SHA256())
        key.public_key().verify(signature, _PROBE, padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, ValueError):
        return False
    return True


def _match(chain: list[x509.Certificate], key: ServerKey) -> None:
    public = key.public_key()
    for number, certificate in enumerate(chain, start=1):
        if _public_key(certificate) == public:
            if number > 1:
                raise _Unusable(
                    Part.CHAIN,
                    f"has the key's own certificate in place {number} of {len(chain)}: expected it first",
                )
            return
    raise _Unusable(
        Part.KEY, "does not match the certificate: expected the key that the first certificate is for"
    )


def _public_key(certificate: x509.Certificate) -> object:
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


def _try_in_openssl(chain: list[x509.Certificate], key: ServerKey) -> None:
    """Let OpenSSL take the pair as it would for serving: it refuses what is too weak for its security level."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    part = Part.CHAIN
    try:
        context.use_certificate(chain[0])
        for certificate in chain[1:]:
            context.add_extra_chain_cert(certificate)
        part = Part.KEY
        context.use_privatekey(key)
        context.check_privatekey()
    except SSL.Error as error:
        reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
        reason = ", ".join(str(entry[-1]) for entry in reasons) or "no reason given"
        raise _Unusable(part, f"is refused by OpenSSL: {reason}") from None


def _examine_order(chain: list[x509.Certificate]) -> list[Finding]:
    for number, (below, above) in enumerate(pairwise(chain), start=1):
        if below.issuer != above.subject:
            text = (
                f"has certificate {number} followed by one that did not issue it: "
                "expected each to be followed by its issuer"
            )
            return [Finding(Part.CHAIN, text, Severity.WARNING)]
    return []


def _examine_validity(chain: list[x509.Certificate], now: datetime) -> list[Finding]:
    findings: list[Finding] = []
    for number, certificate in enumerate(chain, start=1):
        name = "a certificate" if len(chain) == 1 else f"a certificate ({number} of {len(chain)})"
        if certificate.not_valid_after_utc < now:
            text = f"has {name} that expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
            findings.append(Finding(Part.CHAIN, text, Severity.WARNING))
        elif certificate.not_valid_before_utc > now:
            text = (
                f"has {name} that is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            )
            findings.append(Finding(Part.CHAIN, text, Severity.WARNING))
    return findings
