"""The fields of a PROXY protocol version 2 header (doc/proxy-protocol.txt, sections 2.2.1 to 2.2.8).

The types from 0xE0 on are for applications to choose; Symphony's are the original's, so that its receivers keep
working.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct as Layout

from msgspec import Struct

from symphony.relay.proxy_protocol import CRC32C, ProxyHeaderError, Tlv, read_tlvs

ALPN = 0x01
AUTHORITY = 0x02
NOOP = 0x04
UNIQUE_ID = 0x05
SSL = 0x20
SSL_VERSION = 0x21
SSL_CN = 0x22
SSL_CIPHER = 0x23
JA3 = 0xE0
JA4 = 0xE1
CLIENT_CERTIFICATE = 0xE2

MAX_UNIQUE_ID = 128
"""Bytes (section 2.2.5)."""

_OVER_TLS = 0x01
_CERTIFICATE_ON_CONNECTION = 0x02
_CERTIFICATE_IN_SESSION = 0x04
_SSL_START = Layout(">BI")
_TLV = Layout(">BH")

__all__ = [
    "ALPN",
    "AUTHORITY",
    "CLIENT_CERTIFICATE",
    "CRC32C",
    "JA3",
    "JA4",
    "MAX_UNIQUE_ID",
    "NOOP",
    "SSL",
    "SSL_CIPHER",
    "SSL_CN",
    "SSL_VERSION",
    "UNIQUE_ID",
    "Ssl",
    "alpn",
    "authority",
    "client_certificates",
    "ja3",
    "ja4",
    "read_ssl",
    "ssl",
    "unique_id",
]


class Ssl(Struct, frozen=True):
    """What a sender says of the client's TLS connection; empty texts and False for what it does not say.

    `verified` is True only when a certificate was presented and found good.
    """

    version: bytes = b""
    cipher: bytes = b""
    common_name: bytes = b""
    certificate_on_connection: bool = False
    certificate_in_session: bool = False
    verified: bool = False


def alpn(protocol: bytes) -> Tlv:
    """The application protocol agreed on, such as ``h2``."""
    return ALPN, protocol


def authority(name: bytes) -> Tlv:
    """The server name as the client sent it."""
    return AUTHORITY, name


def unique_id(identifier: bytes) -> Tlv:
    """The connection's id. Raises ValueError above 128 bytes."""
    if len(identifier) > MAX_UNIQUE_ID:
        raise ValueError(f"a unique id of {len(identifier)} bytes; expected at most {MAX_UNIQUE_ID}")
    return UNIQUE_ID, identifier


def ssl(
    version: bytes,
    cipher: bytes = b"",
    *,
    common_name: bytes | None = None,
    resumed: bool = False,
    verified: bool = True,
) -> Tlv:
    """The client's TLS connection: its version (``TLSv1.3``), cipher, and the certificate when it sent one.

    `common_name` None means that the client has no certificate; one without a common name gives ``b""``. A `resumed`
    session has its certificate from an earlier connection. `verified` counts only with a certificate.
    """
    client, verify = _OVER_TLS, 1
    subfields = [(SSL_VERSION, version)]
    if common_name is not None:
        client |= _CERTIFICATE_IN_SESSION if resumed else _CERTIFICATE_IN_SESSION | _CERTIFICATE_ON_CONNECTION
        verify = 0 if verified else 1
        if common_name:
            subfields.append((SSL_CN, common_name))
    if cipher:
        subfields.append((SSL_CIPHER, cipher))
    body = b"".join(_TLV.pack(kind, len(value)) + value for kind, value in subfields)
    return SSL, _SSL_START.pack(client, verify) + body


def ja3(digest: str) -> Tlv:
    """The client's JA3 digest."""
    return JA3, digest.encode("ascii")


def ja4(fingerprint: str) -> Tlv:
    """The client's JA4 fingerprint."""
    return JA4, fingerprint.encode("ascii")


def client_certificates(chain: Iterable[bytes]) -> list[Tlv]:
    """The client's certificates in DER, leaf first, one field each."""
    return [(CLIENT_CERTIFICATE, certificate) for certificate in chain]


def read_ssl(value: bytes) -> Ssl | None:
    """Read the value of an SSL field; None when the client did not use TLS. Raises ProxyHeaderError."""
    if len(value) < _SSL_START.size:
        raise ProxyHeaderError("malformed", "the SSL field is cut off")
    client, verify = _SSL_START.unpack_from(value)
    subfields = dict(reversed(read_tlvs(value[_SSL_START.size :])))  # the first of a type counts
    if not client & _OVER_TLS:
        return None
    presented = client & (_CERTIFICATE_ON_CONNECTION | _CERTIFICATE_IN_SESSION)
    return Ssl(
        version=subfields.get(SSL_VERSION, b""),
        cipher=subfields.get(SSL_CIPHER, b""),
        common_name=subfields.get(SSL_CN, b""),
        certificate_on_connection=bool(client & _CERTIFICATE_ON_CONNECTION),
        certificate_in_session=bool(client & _CERTIFICATE_IN_SESSION),
        verified=bool(presented) and verify == 0,
    )
