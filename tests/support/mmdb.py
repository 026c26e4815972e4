"""Writes databases in MaxMind's format (MaxMind DB File Format Specification 2.0), for tests that need one."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path

_MARKER = b"\xab\xcd\xefMaxMind.com"
_SEPARATOR = bytes(16)
_STRING, _UINT16, _UINT32, _MAP, _UINT64, _ARRAY = 2, 5, 6, 7, 9, 11
_KINDS = {
    "binary_format_major_version": _UINT16,
    "binary_format_minor_version": _UINT16,
    "build_epoch": _UINT64,
    "ip_version": _UINT16,
    "record_size": _UINT16,
}
"""Numbers of other kinds than :data:`_UINT32`, by their keys."""

Value = str | int | list[str] | Mapping[str, "Value"]


def write_database(path: Path, records: Mapping[str, Mapping[str, Value]], kind: str = "Test-ASN") -> Path:
    """Write `records` by network, of either version, to a tree of IPv6 in which IPv4 stands at ::/96."""
    data = bytearray()
    nodes: list[list[int | None]] = [[None, None]]
    leaves: dict[tuple[int, int], int] = {}
    for text, record in records.items():
        network = ip_network(text)
        number, length = int(network.network_address), network.prefixlen
        if network.version == 4:
            length += 96
        at = 0
        for position in range(length - 1):
            bit = number >> (127 - position) & 1
            if nodes[at][bit] is None:
                nodes[at][bit] = len(nodes)
                nodes.append([None, None])
            following = nodes[at][bit]
            assert following is not None
            at = following
        leaves[at, number >> (128 - length) & 1] = len(data)
        data += _encode(record)
    count = len(nodes)
    tree = bytearray()
    for index, node in enumerate(nodes):
        for bit in (0, 1):
            leaf = leaves.get((index, bit))
            child = node[bit]
            value = count + 16 + leaf if leaf is not None else count if child is None else child
            tree += value.to_bytes(4, "big")
    metadata = _encode(
        {
            "binary_format_major_version": 2,
            "binary_format_minor_version": 0,
            "build_epoch": 1,
            "database_type": kind,
            "description": {"en": kind},
            "ip_version": 6,
            "languages": ["en"],
            "node_count": count,
            "record_size": 32,
        }
    )
    path.write_bytes(bytes(tree) + _SEPARATOR + bytes(data) + _MARKER + metadata)
    return path


def _encode(value: Value, kind: int = _UINT32) -> bytes:
    if isinstance(value, str):
        text = value.encode()
        return _control(_STRING, len(text)) + text
    if isinstance(value, int):
        number = value.to_bytes((value.bit_length() + 7) // 8, "big")
        return _control(kind, len(number)) + number
    if isinstance(value, list):
        return _control(_ARRAY, len(value)) + b"".join(map(_encode, value))
    pairs = b"".join(_encode(key) + _encode(each, _KINDS.get(key, _UINT32)) for key, each in value.items())
    return _control(_MAP, len(value)) + pairs


def _control(kind: int, size: int) -> bytes:
    long = b"" if size < 29 else bytes([size - 29])
    size = min(size, 29)
    if kind > 7:
        return bytes([size, kind - 7]) + long
    return bytes([kind << 5 | size]) + long
