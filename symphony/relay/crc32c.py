"""CRC-32C (Castagnoli; RFC 9260 appendix A), which no module of the standard library has.

A table look-up per byte is slow in Python, so the message is taken as one polynomial over GF(2), held in an int, and
folded: what stands above bit k is multiplied by x^k mod P and added to what stands below. Shifts and XORs of long
ints run at the machine's speed, and each fold halves the length. CRCs are defined with every byte's bits reversed;
reversing them first makes the most significant bit the highest power.
"""

from __future__ import annotations

_POLYNOMIAL = 0x1_1EDC_6F41
_SMALLEST_FOLD = 64  # bits
_REVERSED = bytes(int(f"{octet:08b}"[::-1], 2) for octet in range(256))


def _remainder(value: int) -> int:
    """Divide by the polynomial bit by bit."""
    while (length := value.bit_length()) > 32:
        value ^= _POLYNOMIAL << (length - 33)
    return value


def _bits(remainder: int) -> tuple[int, ...]:
    return tuple(bit for bit in range(32) if remainder >> bit & 1)


# x^power mod P as the powers that it is the sum of, for every power of two that was needed yet
_FOLDS: dict[int, tuple[int, ...]] = {32: _bits(_POLYNOMIAL)}


def _fold(power: int) -> tuple[int, ...]:
    """Return x^power mod P: the square of that of half the power, and squaring doubles every exponent."""
    bits = _FOLDS.get(power)
    if bits is None:
        bits = _FOLDS[power] = _bits(_remainder(sum(1 << 2 * bit for bit in _fold(power // 2))))
    return bits


def crc32c(data: bytes) -> int:
    """Return the checksum of `data`."""
    size = len(data) * 8
    # the first 32 bits are inverted, and 32 zero bits follow: the remainder of the message times x^32
    value = int.from_bytes(data.translate(_REVERSED), "big") << 32 ^ 0xFFFFFFFF << size
    length = value.bit_length()
    power = _SMALLEST_FOLD
    while power * 2 < length:
        power *= 2
    while power >= _SMALLEST_FOLD:
        high = value >> power
        value &= (1 << power) - 1
        for exponent in _fold(power):
            value ^= high << exponent
        power >>= 1
    value = _remainder(value) ^ 0xFFFFFFFF
    return int.from_bytes(value.to_bytes(4, "big").translate(_REVERSED), "little")
