"""Sets of networks, and the key under which a source address is counted.

A set is kept as the sorted bounds of its merged ranges: an address is inside when an odd number of bounds lies at
or below it, so a look-up is one binary search however many networks there are.

IPv4-mapped IPv6 addresses (``::ffff:192.0.2.1``, which is how a listener on ``::`` sees IPv4 clients) are IPv4
addresses here, in look-ups, in entries and in keys. Therefore ``::/0`` means every IPv6 client and no IPv4 client.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, summarize_address_range
from operator import ge
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple

from symphony.config.wording import quoted

_MAPPED = bytes(10) + b"\xff\xff"
_V6_BOUND = 17  # bytes; the bound behind the last address does not fit into 16
_MAX_PROBLEMS = 20


class CidrError(ValueError):
    """An entry that is no network; the text names the entry, what is wrong with it and what is expected."""


class Network(NamedTuple):
    """An address range: `version` is 4 or 6, `first` and `last` are the addresses as numbers."""

    version: int
    first: int
    last: int


def parse_network(entry: str) -> Network:
    """Read ``192.0.2.0/24``, ``2001:db8::/32`` or a single address. Raises CidrError."""
    address, slash, prefix = entry.partition("/")
    try:
        if ":" in address:
            packed, bits = inet_pton(AF_INET6, address), 128
        else:
            packed, bits = inet_pton(AF_INET, address), 32
    except (OSError, ValueError):
        raise CidrError(
            f"{quoted(entry)} is no network: expected one such as 192.0.2.0/24 or 2001:db8::/32"
        ) from None
    length = bits
    if slash:
        # int() alone would take signs, spaces, underscores and other scripts' digits
        length = int(prefix) if prefix.isascii() and prefix.isdecimal() and len(prefix) <= 3 else -1
        if not 0 <= length <= bits:
            raise CidrError(f"{quoted(entry)} has no valid prefix length: expected a number from 0 to {bits}")
    first = int.from_bytes(packed, "big")
    hosts = (1 << (bits - length)) - 1
    if first & hosts:
        network = (IPv4Network if bits == 32 else IPv6Network)((first & ~hosts, length))
        raise CidrError(f"{quoted(entry)} has address bits set behind its prefix: expected {network}")
    if bits == 128 and length >= 96 and packed[:12] == _MAPPED:
        first &= 0xFFFFFFFF
        return Network(4, first, first + hosts)
    return Network(4 if bits == 32 else 6, first, first + hosts)


def parse_list(text: str) -> tuple[list[Network], list[str]]:
    """Read a list file: one network a line, blank lines and comments after ``#`` or ``;`` left out.

    Returns the networks and what is wrong, each as ``line 7: ...`` (of very many, the first 20 and how many more).
    """
    networks: list[Network] = []
    problems: list[str] = []
    wrong = 0
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        entry = line.partition("#")[0].partition(";")[0].strip()
        if not entry:
            continue
        try:
            networks.append(parse_network(entry))
        except CidrError as error:
            wrong += 1
            if wrong <= _MAX_PROBLEMS:
                problems.append(f"line {number}: {error}")
    if wrong > _MAX_PROBLEMS:
        problems.append(f"and {wrong - _MAX_PROBLEMS} more lines that are no networks")
    return networks, problems


class CidrSet:
    """An immutable set of addresses, built from networks or their texts (raising CidrError)."""

    __slots__ = ("_v4", "_v6")

    _v4: Sequence[int]
    _v6: Sequence[int]

    def __init__(self, entries: Iterable[str | Network] = ()) -> None:
        v4: list[tuple[int, int]] = []
        v6: list[tuple[int, int]] = []
        for entry in entries:
            version, first, last = parse_network(entry) if isinstance(entry, str) else entry
            (v4 if version == 4 else v6).append((first, last + 1))
        self._v4 = array("Q", _merged(v4))
        self._v6 = _merged(v6)

    def __bool__(self) -> bool:
        return bool(self._v4) or bool(self._v6)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CidrSet) and self._v4 == other._v4 and self._v6 == other._v6

    def __hash__(self) -> int:
        return hash((tuple(self._v4), tuple(self._v6)))

    def __repr__(self) -> str:
        return f"<CidrSet of {len(self._v4) // 2} IPv4 and {len(self._v6) // 2} IPv6 ranges>"

    def contains(self, address: str | bytes) -> bool:
        """Whether an address, as text or packed in 4 or 16 bytes, is in the set. Raises ValueError for no address."""
        packed = pack_address(address) if isinstance(address, str) else address
        if len(packed) == 16:
            if packed[:12] != _MAPPED:
                return bisect_right(self._v6, int.from_bytes(packed, "big")) & 1 == 1
            packed = packed[12:]
        elif len(packed) != 4:
            raise ValueError(f"a packed address of {len(packed)} bytes; expected 4 or 16")
        return bisect_right(self._v4, int.from_bytes(packed, "big")) & 1 == 1

    def networks(self) -> Iterator[IPv4Network | IPv6Network]:
        """The fewest networks that make up the set, IPv4 first, in ascending order."""
        v4, v6 = self._v4, self._v6
        for first, after in zip(v4[::2], v4[1::2], strict=True):
            yield from summarize_address_range(IPv4Address(first), IPv4Address(after - 1))
        for first, after in zip(v6[::2], v6[1::2], strict=True):
            yield from summarize_address_range(IPv6Address(first), IPv6Address(after - 1))

    def to_bytes(self) -> bytes:
        """Return the set in a form that :meth:`from_bytes` takes back without reading every entry again."""
        v4 = array("Q", self._v4)
        if sys.byteorder == "little":
            v4.byteswap()
        v6 = b"".join([bound.to_bytes(_V6_BOUND, "big") for bound in self._v6])
        return (len(v4) * 8).to_bytes(4, "big") + v4.tobytes() + v6

    @classmethod
    def from_bytes(cls, data: bytes) -> CidrSet:
        """Take back what :meth:`to_bytes` gave. Raises ValueError for anything else."""
        end = 4 + int.from_bytes(data[:4], "big")
        if not 4 <= end <= len(data) or (end - 4) % 16 or (len(data) - end) % (2 * _V6_BOUND):
            raise ValueError("not a packed CidrSet")
        v4 = array("Q", data[4:end])
        if sys.byteorder == "little":
            v4.byteswap()
        v6 = [int.from_bytes(data[at : at + _V6_BOUND], "big") for at in range(end, len(data), _V6_BOUND)]
        if any(map(ge, v4, v4[1:])) or any(map(ge, v6, v6[1:])):
            raise ValueError("not a packed CidrSet: its bounds do not ascend")
        result = cls()
        result._v4 = v4
        result._v6 = v6
        return result


def pack_address(address: str) -> bytes:
    """Return an address in 4 bytes (IPv4, mapped or not) or 16 bytes. Raises ValueError for no address."""
    try:
        if ":" not in address:
            return inet_pton(AF_INET, address)
        packed = inet_pton(AF_INET6, address.partition("%")[0])  # link-local peers carry their interface
    except (OSError, ValueError):
        raise ValueError(f"{address!r} is no IP address") from None
    return packed[12:] if packed[:12] == _MAPPED else packed


def source_key(address: str | bytes, ipv6_prefix: int = 64) -> bytes:
    """Return the key under which a source is counted: 4 bytes for IPv4, the first `ipv6_prefix` bits for IPv6.

    Someone with an IPv6 network can use any address of it, so its addresses count as one. The key of an IPv6
    source has at least 5 bytes, so that it never equals one of IPv4.
    """
    packed = pack_address(address) if isinstance(address, str) else address
    if len(packed) == 4:
        return packed
    if packed[:12] == _MAPPED:
        return packed[12:]
    size = (ipv6_prefix + 7) >> 3
    key = packed[:size]
    spare = (size << 3) - ipv6_prefix
    if spare:
        key = key[:-1] + bytes((key[-1] >> spare << spare,))
    return key if size > 4 else key.ljust(5, b"\0")


def source_name(key: bytes, ipv6_prefix: int = 64) -> str:
    """Return what a key of :func:`source_key` stands for: ``192.0.2.1``, ``2001:db8::/64``."""
    if len(key) == 4:
        return inet_ntop(AF_INET, key)
    address = inet_ntop(AF_INET6, key.ljust(16, b"\0")[:16])
    return address if ipv6_prefix == 128 else f"{address}/{ipv6_prefix}"


def _merged(ranges: list[tuple[int, int]]) -> list[int]:
    """Return the ascending bounds of half-open ranges put together."""
    ranges.sort()
    bounds: list[int] = []
    end = -1
    for first, after in ranges:
        if first > end:
            bounds += (first, after)
            end = after
        elif after > end:
            bounds[-1] = end = after
    return bounds
