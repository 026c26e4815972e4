"""The PROXY protocol, versions 1 and 2: who a proxied connection really comes from. Bytes in, values out.

After HAProxy's specification (doc/proxy-protocol.txt, sections 2.1 and 2.2). A sender puts the header in front of the
first byte that it relays. A receiver must know by configuration that there is one, and must trust the sender:
:func:`parse` reads what such a sender has sent, always from the start of the stream, so that it suits bytes that were
peeked at. It takes nothing that the specification does not allow.

The type-length-value fields of version 2 are pairs of a type and a value; :mod:`symphony.relay.proxy_tlv` makes and
reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from struct import Struct as Layout

from msgspec import Struct

from symphony.relay.crc32c import crc32c

Address = tuple[str, int] | bytes
"""An IP address and a port, or the path of a Unix socket."""
Tlv = tuple[int, bytes]

MAX_V1 = 107
"""Bytes in a version 1 line, its CR LF included (section 2.1)."""
MAX_V2 = 16 * 1024
"""Bytes of a version 2 header that are taken; the protocol has room for 64 KiB."""

CRC32C = 0x03
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

_V1_START = b"PROXY "
_SHORTEST = len(b"PROXY UNKNOWN\r\n")
_UNIX_SIZE = 108
_MAPPED = bytes(10) + b"\xff\xff"
_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
_ADDRESS_SIZES = {_UNSPECIFIED: 0, _TCP4: 12, 0x12: 12, _TCP6: 36, 0x22: 36, _UNIX: 216, 0x32: 216}
_START = Layout(">12sBBH")
_START_SIZE = _START.size
_V4 = Layout(">4s4sHH")
_V6 = Layout(">16s16sHH")
_TLV = Layout(">BH")


class ProxyHeaderError(Exception):
    """What was received is no acceptable header; `reason` is one word for counting, the text says what is wrong."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Incomplete(Struct, frozen=True):
    """The bytes so far are right, but at least `needed` must be there, counted from the start of the stream."""

    needed: int


class Header(Struct, frozen=True):
    """A received header, which takes up the first `size` bytes of the stream.

    `source` and `destination` are None when the header names no stream addresses (LOCAL, UNKNOWN, UNSPEC, datagram):
    then those of the connection itself are the right ones. `local` says that the sender speaks for itself, as in
    health checks.
    """

    size: int
    version: int
    source: Address | None = None
    destination: Address | None = None
    local: bool = False
    tlvs: tuple[Tlv, ...] = ()


def parse(data: bytes, max_v2: int = MAX_V2) -> Header | Incomplete:
    """Read the header at the start of a stream of which `data` is what has arrived so far.

    Bytes behind the header are ignored. Raises ProxyHeaderError as early as the bytes allow, with the reasons
    ``missing`` (no header at all), ``malformed``, ``oversized``, ``unsupported``, ``checksum``.
    """
    start = data[:12]
    if SIGNATURE.startswith(start):
        if len(data) < _START_SIZE:
            return Incomplete(_START_SIZE if data else _SHORTEST)
        return _parse_v2(data, max_v2)
    if _V1_START.startswith(start[:6]):
        return _parse_v1(bytes(data[:MAX_V1]))
    raise ProxyHeaderError("missing", "the stream does not begin with a PROXY header")


def encode_v1(source: Address | None, destination: Address | None) -> bytes:
    """Return a version 1 line. Without two IP addresses it says UNKNOWN. Raises ValueError for no address."""
    if not isinstance(source, tuple) or not isinstance(destination, tuple):
        return b"PROXY UNKNOWN\r\n"
    one, two = _alike(source[0], destination[0])
    family, kind = ("TCP4", AF_INET) if len(one) == 4 else ("TCP6", AF_INET6)
    line = f"PROXY {family} {inet_ntop(kind, one)} {inet_ntop(kind, two)} {_port(source)} {_port(destination)}\r\n"
    return line.encode()


def encode_v2(
    source: Address | None, destination: Address | None, tlvs: Iterable[Tlv] = (), *, checksum: bool = False
) -> bytes:
    """Return a version 2 header, with its CRC-32C as the last field where asked.

    Two IP addresses, or two Unix paths of at most 108 bytes; anything else is sent as UNSPEC. Raises ValueError for no
    address, and OverflowError when a field or all of them take up more than 65,535 bytes.
    """
    if isinstance(source, tuple) and isinstance(destination, tuple):
        one, two = _alike(source[0], destination[0])
        family, layout = (_TCP4, _V4) if len(one) == 4 else (_TCP6, _V6)
        body = layout.pack(one, two, _port(source), _port(destination))
    elif isinstance(source, bytes) and isinstance(destination, bytes):
        if len(source) > _UNIX_SIZE or len(destination) > _UNIX_SIZE:
            raise ValueError(f"a Unix socket path of more than {_UNIX_SIZE} bytes")
        family, body = _UNIX, source.ljust(_UNIX_SIZE, b"\0") + destination.ljust(_UNIX_SIZE, b"\0")
    else:
        family, body = _UNSPECIFIED, b""
    parts = [body]
    for kind, value in tlvs:
        if len(value) > 0xFFFF:
            raise OverflowError(f"field 0x{kind:02x} of a PROXY header has {len(value)} bytes")
        parts += (_TLV.pack(kind, len(value)), value)
    if checksum:
        parts.append(_TLV.pack(CRC32C, 4) + bytes(4))
    body = b"".join(parts)
    if len(body) > 0xFFFF:
        raise OverflowError(f"a PROXY header of {len(body)} bytes")
    header = _START.pack(SIGNATURE, _PROXY, family, len(body)) + body
    return header[:-4] + crc32c(header).to_bytes(4, "big") if checksum else header


def encode_local() -> bytes:
    """Return the version 2 header of a connection on the proxy's own behalf, such as a health check."""
    return _START.pack(SIGNATURE, _LOCAL, _UNSPECIFIED, 0)


def read_tlvs(data: bytes) -> tuple[Tlv, ...]:
    """Read fields that fill all of `data`. Raises ProxyHeaderError ("malformed")."""
    found: list[Tlv] = []
    at, end = 0, len(data)
    while at < end:
        if at + 3 > end:
            raise ProxyHeaderError("malformed", "a field is cut off")
        kind, size = _TLV.unpack_from(data, at)
        at += 3 + size
        if at > end:
            raise ProxyHeaderError("malformed", f"field 0x{kind:02x} is longer than what holds it")
        found.append((kind, data[at - size : at]))
    return tuple(found)


def _parse_v1(data: bytes) -> Header | Incomplete:
    end = data.find(b"\n")
    line = data if end < 0 else data[:end]
    cr = line.find(b"\r")
    if end < 0 and (cr < 0 or cr == len(line) - 1):
        if len(data) >= MAX_V1:
            raise ProxyHeaderError("oversized", f"no end of line within {MAX_V1} bytes")
        return Incomplete(max(_SHORTEST, len(data) + (1 if cr >= 0 else 2)))
    if cr < 0 or cr != len(line) - 1:
        raise ProxyHeaderError("malformed", "a single CR or LF in the line")
    words = line[:-1].split(b" ")
    if words[1] == b"UNKNOWN":
        return Header(size=end + 1, version=1)
    if words[1] not in (b"TCP4", b"TCP6"):
        raise ProxyHeaderError("malformed", f"protocol {words[1]!r}; expected TCP4, TCP6 or UNKNOWN")
    if len(words) != 6:
        raise ProxyHeaderError(
            "malformed", f"{len(words)} words in the line; expected 6, one space between them"
        )
    kind = AF_INET if words[1] == b"TCP4" else AF_INET6
    source = _v1_address(words[2], kind), _v1_port(words[4])
    return Header(
        size=end + 1, version=1, source=source, destination=(_v1_address(words[3], kind), _v1_port(words[5]))
    )


def _v1_address(word: bytes, kind: int) -> str:
    try:
        return inet_ntop(kind, inet_pton(kind, word.decode("ascii")))
    except (OSError, ValueError):
        raise ProxyHeaderError("malformed", f"{word!r} is no address of the family announced") from None


def _v1_port(word: bytes) -> int:
    if word.isdigit() and len(word) <= 5 and (word[:1] != b"0" or word == b"0"):
        port = int(word)
        if port <= 0xFFFF:
            return port
    raise ProxyHeaderError("malformed", f"{word!r} is no port; expected 0 to 65535 without leading zeros")


def _parse_v2(data: bytes, limit: int) -> Header | Incomplete:
    _, command, family, length = _START.unpack_from(data)
    if command not in (_LOCAL, _PROXY):
        raise ProxyHeaderError("unsupported", f"version and command 0x{command:02x}; expected 0x20 or 0x21")
    size = _START_SIZE + length
    if size > limit:
        raise ProxyHeaderError("oversized", f"a header of {size} bytes; at most {limit} are taken")
    addresses = 0
    if command == _PROXY:
        addresses = _ADDRESS_SIZES.get(family, -1)
        if addresses < 0:
            raise ProxyHeaderError("unsupported", f"family and protocol 0x{family:02x}")
        if length < addresses:
            raise ProxyHeaderError("malformed", f"{length} bytes for addresses that take {addresses}")
    if len(data) < size:
        return Incomplete(size)
    if command == _LOCAL:
        return Header(size=size, version=2, local=True)  # all that it holds is to be skipped (section 2.2)
    header = bytes(data[:size])
    tlvs = read_tlvs(header[_START_SIZE + addresses :])
    _check_crc(header, _START_SIZE + addresses, tlvs)
    source: Address | None = None
    destination: Address | None = None
    if family in (_TCP4, _TCP6):
        kind, layout = (AF_INET, _V4) if family == _TCP4 else (AF_INET6, _V6)
        one, two, source_port, destination_port = layout.unpack_from(header, _START_SIZE)
        source = inet_ntop(kind, one), source_port
        destination = inet_ntop(kind, two), destination_port
    elif family == _UNIX:
        middle = _START_SIZE + _UNIX_SIZE
        source = header[_START_SIZE:middle].rstrip(b"\0")
        destination = header[middle : middle + _UNIX_SIZE].rstrip(b"\0")
    return Header(size=size, version=2, source=source, destination=destination, tlvs=tlvs)


def _check_crc(header: bytes, at: int, tlvs: tuple[Tlv, ...]) -> None:
    """Compare the checksum, if there is one, with that of the header with zeros in its place (section 2.2.3)."""
    found = -1
    for kind, value in tlvs:
        if kind == CRC32C:
            if len(value) != 4 or found >= 0:
                raise ProxyHeaderError("malformed", "a checksum that is not 4 bytes, or a second one")
            found = at + 3
        at += 3 + len(value)
    if found >= 0:
        blank = header[:found] + bytes(4) + header[found + 4 :]
        if crc32c(blank).to_bytes(4, "big") != header[found : found + 4]:
            raise ProxyHeaderError("checksum", "the checksum does not fit the header")


def _alike(source: str, destination: str) -> tuple[bytes, bytes]:
    """Pack two addresses in one family: IPv4 when both are (mapped or not), else IPv6 with IPv4 mapped into it."""
    one, two = _pack(source), _pack(destination)
    if len(one) == len(two):
        return one, two
    return (_MAPPED + one if len(one) == 4 else one), (_MAPPED + two if len(two) == 4 else two)


def _pack(address: str) -> bytes:
    try:
        if ":" not in address:
            return inet_pton(AF_INET, address)
        packed = inet_pton(AF_INET6, address.partition("%")[0])
    except OSError:
        raise ValueError(f"{address!r} is no IP address") from None
    return packed[12:] if packed[:12] == _MAPPED else packed


def _port(address: tuple[str, int]) -> int:
    if not 0 <= address[1] <= 0xFFFF:
        raise ValueError(f"{address[1]} is no port")
    return address[1]
