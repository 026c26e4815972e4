"""Which upstream an address belongs to, by weighted rendezvous hashing.

Every upstream gets a score for the address, and the highest wins: of all upstreams each is the winner for its share of
the addresses, and one that goes away leaves the others' addresses where they are. The scores depend on the address and
the labels alone, so that every process, and every proxy in front of the same upstreams, comes to the same answer.

With weights the score is ``weight / -ln(u)`` for a uniform `u` in (0, 1) (Schindelhauer and Schomaker, "Weighted
distributed hash tables", SPAA 2005).
"""

from __future__ import annotations

from hashlib import blake2b
from math import log

_MASK = (1 << 64) - 1
# The multipliers of the 64-bit finaliser in MurmurHash3.
_FIRST = 0xFF51AFD7ED558CCD
_SECOND = 0xC4CEB9FE1A85EC53


def digest(text: str) -> int:
    """64 bits that stand for an address or a label, the same in every process and at all times."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def mix(one: int, other: int) -> int:
    """64 evenly distributed bits for a pair of digests."""
    value = ((one ^ other) * _FIRST) & _MASK
    value = ((value ^ (value >> 33)) * _SECOND) & _MASK
    return value ^ (value >> 33)


def score(address: int, label: int, weight: int) -> float:
    """The score of an upstream for an address, both as digests."""
    return weight / -log((mix(address, label) + 0.5) / 18446744073709551616.0)
