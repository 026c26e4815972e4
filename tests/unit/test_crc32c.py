"""CRC-32C against published values and the definition worked out bit by bit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symphony.relay.crc32c import crc32c


def bit_by_bit(data: bytes) -> int:
    value = 0xFFFFFFFF
    for octet in data:
        value ^= octet
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        # RFC 3720, appendix B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_published_values(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_like_the_definition(data: bytes) -> None:
    assert crc32c(data) == bit_by_bit(data)


@pytest.mark.parametrize("size", [4095, 4096, 16384, 65551])
def test_long_data(size: int) -> None:
    data = bytes(index * 7 & 0xFF for index in range(size))
    assert crc32c(data) == bit_by_bit(data)
