"""What a route tells its upstream about the client: a PROXY header, or fields for HTTP requests.

A PROXY header names the client, as the listener knows it, and the address that the client connected to. What only
version 2 can say goes behind them as fields: what is known from TLS (:mod:`symphony.relay.proxy_tlv`).
"""

from __future__ import annotations

from typing import Any

from structlog import get_logger

from symphony.observe.throttle import Throttle
from symphony.relay import proxy_tlv
from symphony.relay.http_head import identity_fields
from symphony.relay.proxy_protocol import Address, Tlv, encode_v1, encode_v2
from symphony.tls import library

MAX_COMMON_NAME = 1024
"""Bytes; RFC 5280 allows 64 characters. A longer one is not passed on."""

log = get_logger("identity")
_cut_chains = Throttle(1.0)


def request_fields(address: str, scheme: str, fingerprints: tuple[str, str] = ("", "")) -> bytes:
    """The lines that name the client in an HTTP request that came by `scheme` (``http``, ``https``)."""
    bare = address.partition("%")[0]  # a link-local peer's address has its interface behind it
    return identity_fields(bare, scheme, *fingerprints)


def proxy_header(
    kind: str,
    source: Address,
    destination: Address,
    unique_id: str,
    server_name: bytes | None,
    session: Any,
    fingerprints: tuple[str, str] = ("", ""),
) -> bytes:
    """A header as a route's `source_address_header` names it: ``proxy_protocol`` is version 1.

    `session` is the client's TLS session, None for one that is passed through. A client certificate comes with the
    others that the client sent behind it. When all of them do not fit into the 65,535 bytes that a header has, only
    the leaf is sent, and the log says so; a resumed session has no others anyway.
    """
    if kind == "proxy_protocol":
        return encode_v1(source, destination)
    fields: list[Tlv] = []
    chain: list[bytes] = []
    if session is not None:
        version, cipher, protocol = library.negotiated(session)
        chain, common_name = library.client_certificates(session)
        if protocol:
            fields.append(proxy_tlv.alpn(protocol))
        if chain:
            resumed, verified = library.is_resumed(session), library.is_verified(session)
            name = _unmistakable(common_name)
            fields.append(
                proxy_tlv.ssl(version, cipher, common_name=name, resumed=resumed, verified=verified)
            )
        else:
            fields.append(proxy_tlv.ssl(version, cipher))
    if server_name is not None:
        fields.append(proxy_tlv.authority(server_name))
    fields.append(proxy_tlv.unique_id(unique_id.encode("ascii")))
    ja3, ja4 = fingerprints
    if ja3:
        fields.append(proxy_tlv.ja3(ja3))
    if ja4:
        fields.append(proxy_tlv.ja4(ja4))
    if chain:
        return _with_certificates(source, destination, fields, chain, unique_id)
    return encode_v2(source, destination, fields, checksum=True)


def _with_certificates(
    source: Address, destination: Address, fields: list[Tlv], chain: list[bytes], unique_id: str
) -> bytes:
    for kept in (chain, chain[:1]):
        try:
            certificates = proxy_tlv.client_certificates(kept)
            header = encode_v2(source, destination, fields + certificates, checksum=True)
        except OverflowError:
            continue
        break
    else:
        kept = []
        header = encode_v2(source, destination, fields, checksum=True)
    if len(kept) < len(chain) and (left_out := _cut_chains.allow()) is not None:
        log.warning(
            "client_chain_cut",
            id=unique_id,
            certificates=len(chain),
            sent=len(kept),
            bytes=sum(map(len, chain)),
            advice="a PROXY header has room for 65535 bytes",
            left_out=left_out,
        )
    return header


def _unmistakable(common_name: bytes) -> bytes:
    """Leave out a name that a receiver might read as a shorter one, since a zero byte ends it, or cut off."""
    return common_name if b"\0" not in common_name and len(common_name) <= MAX_COMMON_NAME else b""
