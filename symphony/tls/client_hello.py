"""The ClientHello, read from the first bytes of a TLS connection: bytes in, values out, no sockets.

A connection starts with TLS records (RFC 8446 section 5.1): a type octet (22, handshake), a version and a
length, then so many bytes. The records' contents put together begin with the ClientHello (section 4.1.2),
which may span several records and may be followed by anything. :func:`parse` always looks from the start of
the stream, so it suits bytes that were peeked at; :attr:`Incomplete.needed` tells how many must be there
before another look is worth it. That number is a lower bound worked out from the message's own length, so
that a client which cuts its hello into one-byte records costs some tens of looks and not thousands.

Checked at once: the records, the message's skeleton, every extension's length, duplicate extensions (section
4.2) and the server name (RFC 6066 section 3). All other contents are decoded when they are asked for.
"""

from __future__ import annotations

from struct import Struct as Layout
from struct import error as LayoutError
from struct import unpack_from
from typing import ClassVar

from msgspec import Struct

MAX_MESSAGE = 16 * 1024
"""Bytes of handshake message, its four-byte header included."""
MAX_STREAM = 32 * 1024
"""Bytes of stream, record headers included."""
MAX_RECORD = 16 * 1024
"""Bytes in one plaintext record (RFC 8446 section 5.1)."""

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_RECORD_HEADER = 5
_MESSAGE_HEADER = 4

_EXT_SERVER_NAME = 0
_EXT_SUPPORTED_GROUPS = 10
_EXT_POINT_FORMATS = 11
_EXT_SIGNATURE_ALGORITHMS = 13
_EXT_ALPN = 16
_EXT_SUPPORTED_VERSIONS = 43

_IN_FINGERPRINTS = (
    _EXT_SUPPORTED_GROUPS,
    _EXT_POINT_FORMATS,
    _EXT_SIGNATURE_ALGORITHMS,
    _EXT_ALPN,
    _EXT_SUPPORTED_VERSIONS,
)
"""The extensions whose contents JA3 or JA4 look at."""

_START = Layout(
    ">BBxHI"
).unpack_from  # record type, major version, (minor), record length, message type and length
_RECORD = Layout(">BBxH").unpack_from
_TWO = Layout(">HH").unpack_from
_SHORT = Layout(">H").unpack_from
_NAME_ENTRY = Layout(">HBH").unpack_from  # list length, name type, name length


class ClientHelloError(Exception):
    """The bytes are no acceptable ClientHello; such connections are counted under `reason`."""

    reason: ClassVar[str]


class NotTls(ClientHelloError):
    """The stream does not begin with a TLS handshake record, such as a plain HTTP request."""

    reason = "not_tls"


class MalformedClientHello(ClientHelloError):
    """A length, a vector or an order that the protocol forbids."""

    reason = "malformed_client_hello"


class OversizedClientHello(ClientHelloError):
    """More than :data:`MAX_MESSAGE`, :data:`MAX_STREAM` or :data:`MAX_RECORD` bytes announced."""

    reason = "oversized_client_hello"


class Incomplete(Struct, frozen=True):
    """The bytes so far are right, but `needed` must be there, counted from the start of the stream."""

    needed: int


class ClientHello:
    """A client's first message.

    `server_name` is the host_name as sent (ASCII, neither lower-cased nor stripped of a trailing dot) or
    None. The other properties decode on access and raise :class:`MalformedClientHello` when that part is
    broken.
    """

    __slots__ = ("_ciphers_at", "_extensions_at", "_message", "_start", "server_name")

    server_name: bytes | None

    def __init__(self, message: bytes, start: int, end: int) -> None:
        """Take the message body in ``message[start:end]``; the caller has checked that it is all there."""
        self._message = message
        self._start = start
        try:
            at = start + 34  # legacy_version, random
            session_id_length = message[at]
            if session_id_length > 32:
                raise MalformedClientHello("legacy_session_id is longer than 32 bytes")
            at += 1 + session_id_length
            self._ciphers_at = at
            ciphers_length = (message[at] << 8) | message[at + 1]
            if ciphers_length < 2 or ciphers_length & 1:
                raise MalformedClientHello("cipher_suites has an odd length or none")
            at += 2 + ciphers_length
            compression_length = message[at]
            if not compression_length:
                raise MalformedClientHello("legacy_compression_methods is empty")
            at += 1 + compression_length
            extensions_at: dict[int, int] = {}
            self._extensions_at = extensions_at
            self.server_name = None
            if at == end:  # extensions are optional up to TLS 1.2 (RFC 5246 section 7.4.1.2)
                return
            if at + 2 + ((message[at] << 8) | message[at + 1]) != end:
                raise MalformedClientHello("the extensions do not end where the message ends")
            at += 2
            count = 0
            two = _TWO
            # A header read beyond `end` (there may be more bytes behind it) moves `at` beyond `end` as well.
            while at < end:
                kind, length = two(message, at)
                extensions_at[kind] = at
                count += 1
                at += 4 + length
        except (IndexError, LayoutError):
            raise MalformedClientHello("the message ends too early") from None
        if at != end:
            raise MalformedClientHello("an extension ends behind the message")
        if count != len(extensions_at):
            raise MalformedClientHello("an extension is sent twice")
        name_at = extensions_at.get(_EXT_SERVER_NAME)
        if name_at is not None:
            self.server_name = _server_name(message, name_at)

    def __repr__(self) -> str:
        return f"<ClientHello server_name={self.server_name!r}>"

    @property
    def legacy_version(self) -> int:
        """The version in the message, such as 0x0303 (TLS 1.2 and 1.3)."""
        return int(_SHORT(self._message, self._start)[0])

    @property
    def cipher_suites(self) -> tuple[int, ...]:
        """The cipher suites in the client's order, GREASE values (RFC 8701) included."""
        (length,) = _SHORT(self._message, self._ciphers_at)
        return unpack_from(f">{length // 2}H", self._message, self._ciphers_at + 2)

    @property
    def extensions(self) -> tuple[tuple[int, bytes], ...]:
        """Every extension's number and raw body, in the client's order."""
        return tuple((kind, self._body(at)) for kind, at in self._extensions_at.items())

    @property
    def shape(self) -> tuple[object, ...]:
        """All that decides about the fingerprints, undecoded: equal for connections of one client, as a rule."""
        message, at, found = self._message, self._ciphers_at, self._extensions_at
        parts: list[object] = [
            message[self._start : self._start + 2],
            message[at : at + 2 + (message[at] << 8 | message[at + 1])],
            tuple(found),
        ]
        for kind in _IN_FINGERPRINTS:
            if kind in found:
                at = found[kind]
                parts.append(message[at : at + 4 + (message[at + 2] << 8 | message[at + 3])])
        return tuple(parts)

    @property
    def extension_ids(self) -> tuple[int, ...]:
        """Every extension's number, in the client's order."""
        return tuple(self._extensions_at)

    def extension(self, kind: int) -> bytes | None:
        """Return the raw body of extension `kind`, or None when it was not sent."""
        at = self._extensions_at.get(kind)
        return None if at is None else self._body(at)

    @property
    def alpn(self) -> tuple[bytes, ...]:
        """The protocols offered by ALPN (RFC 7301 section 3.1), best first; empty when none."""
        body = self.extension(_EXT_ALPN)
        if body is None:
            return ()
        names = _vector(body, 2, "application_layer_protocol_negotiation")
        found: list[bytes] = []
        at = 0
        while at < len(names):
            end = at + 1 + names[at]
            if end == at + 1 or end > len(names):
                raise MalformedClientHello("an ALPN protocol name is empty or cut off")
            found.append(names[at + 1 : end])
            at = end
        return tuple(found)

    @property
    def supported_versions(self) -> tuple[int, ...]:
        """The versions offered (RFC 8446 section 4.2.1); empty when the extension was not sent."""
        return self._numbers(_EXT_SUPPORTED_VERSIONS, 1, "supported_versions")

    @property
    def groups(self) -> tuple[int, ...]:
        """The key exchange groups (section 4.2.7); empty when the extension was not sent."""
        return self._numbers(_EXT_SUPPORTED_GROUPS, 2, "supported_groups")

    @property
    def signature_algorithms(self) -> tuple[int, ...]:
        """The signature schemes (section 4.2.3); empty when the extension was not sent."""
        return self._numbers(_EXT_SIGNATURE_ALGORITHMS, 2, "signature_algorithms")

    @property
    def point_formats(self) -> tuple[int, ...]:
        """The point formats (RFC 8422 section 5.1.2); empty when the extension was not sent."""
        body = self.extension(_EXT_POINT_FORMATS)
        return () if body is None else tuple(_vector(body, 1, "ec_point_formats"))

    def _body(self, at: int) -> bytes:
        (length,) = _SHORT(self._message, at + 2)
        return self._message[at + 4 : at + 4 + length]

    def _numbers(self, kind: int, length_bytes: int, name: str) -> tuple[int, ...]:
        body = self.extension(kind)
        if body is None:
            return ()
        items = _vector(body, length_bytes, name)
        if len(items) & 1:
            raise MalformedClientHello(f"{name} has an odd length")
        return unpack_from(f">{len(items) // 2}H", items)


def parse(data: bytes) -> ClientHello | Incomplete:
    """Read the ClientHello at the start of a stream of which `data` is what has arrived so far.

    Bytes behind the message are ignored. Raises :class:`NotTls`, :class:`MalformedClientHello` or
    :class:`OversizedClientHello`, as early as the bytes allow.
    """
    if len(data) < _RECORD_HEADER + _MESSAGE_HEADER:
        return _parse_records(data)
    kind, major, length, message = _START(data, 0)
    end = _RECORD_HEADER + _MESSAGE_HEADER + (message & 0xFFFFFF)
    if (
        kind == _HANDSHAKE
        and major == 3
        and message >> 24 == _CLIENT_HELLO
        and end <= _RECORD_HEADER + length <= len(data)
        and length <= MAX_RECORD
    ):
        return ClientHello(data, _RECORD_HEADER + _MESSAGE_HEADER, end)
    return _parse_records(data)


def _parse_records(data: bytes) -> ClientHello | Incomplete:
    """Do what :func:`parse` does, for a message that spans records, is not all there or is wrong."""
    available = len(data)
    message = bytearray()
    wanted = _MESSAGE_HEADER  # bytes of message, as far as known
    at = 0
    while True:
        _check_record_start(data, at)
        if available < at + _RECORD_HEADER:
            return _incomplete(at + _RECORD_HEADER + (wanted - len(message) if at else 0))
        _, _, length = _RECORD(data, at)
        if not length:
            raise MalformedClientHello("a handshake record is empty")
        if length > MAX_RECORD:
            raise OversizedClientHello(f"a record of {length} bytes")
        at += _RECORD_HEADER
        message += data[at : at + length]
        if message and message[0] != _CLIENT_HELLO:
            raise MalformedClientHello(f"handshake message {message[0]} where a ClientHello must be")
        if len(message) >= _MESSAGE_HEADER:
            wanted = _MESSAGE_HEADER + int.from_bytes(message[1:4], "big")
            if wanted > MAX_MESSAGE:
                raise OversizedClientHello(f"a ClientHello of {wanted} bytes")
        at += length
        if at > available:
            beyond = wanted - (len(message) + at - available)
            return _incomplete(at + (_RECORD_HEADER + beyond if beyond > 0 else 0))
        if len(message) >= wanted:
            return ClientHello(bytes(message), _MESSAGE_HEADER, wanted)


def _check_record_start(data: bytes, at: int) -> None:
    """Judge a record's type and version, as far as they have arrived."""
    head = data[at : at + 2]
    if head[:1] in (b"", b"\x16") and head[1:] in (b"", b"\x03"):
        return
    if at == 0:
        raise NotTls("the stream does not begin with a TLS handshake record")
    raise MalformedClientHello("another kind of record inside the ClientHello")


def _incomplete(needed: int) -> Incomplete:
    if needed > MAX_STREAM:
        raise OversizedClientHello(f"a ClientHello that takes {needed} bytes of stream or more")
    return Incomplete(needed)


def _server_name(message: bytes, at: int) -> bytes | None:
    """Return the one host_name of the server_name extension at `at`; None when it has only others."""
    (length,) = _SHORT(message, at + 2)
    at += 4
    if length >= 6:
        list_length, name_type, name_length = _NAME_ENTRY(message, at)
        if name_type == 0 and list_length == length - 2 and name_length == length - 5:
            return _host_name(message[at + 5 : at + length])
    names = _vector(message[at : at + length], 2, "server_name")
    # RFC 6066 section 3: at most one name of a type; names of unknown types begin with a 16-bit length, too.
    found: dict[int, bytes] = {}
    at = 0
    while at < len(names):
        if at + 3 > len(names):
            raise MalformedClientHello("a server name is cut off")
        name_type, high, low = names[at : at + 3]
        end = at + 3 + ((high << 8) | low)
        if end > len(names):
            raise MalformedClientHello("a server name is cut off")
        if name_type in found:
            raise MalformedClientHello("two server names of one type")
        found[name_type] = names[at + 3 : end]
        at = end
    return _host_name(found[0]) if 0 in found else None


def _host_name(name: bytes) -> bytes:
    if not name or not name.isascii() or 0 in name:
        raise MalformedClientHello("host_name is empty, not ASCII or has a zero byte")
    return name


def _vector(body: bytes, length_bytes: int, what: str) -> bytes:
    """Return the contents of a vector that fills all of `body` and is not empty."""
    length = int.from_bytes(body[:length_bytes], "big")
    if not length or length_bytes + length != len(body):
        raise MalformedClientHello(f"{what} has a wrong length")
    return body[length_bytes:]
