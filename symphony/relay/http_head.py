"""The head of one HTTP/1.x request, with the fields that name its client set. Bytes in, bytes out.

The client's own copies of those fields are removed, in any case and with any separator (``X_Forwarded-For`` becomes
the same variable as ``X-Forwarded-For`` in CGI, WSGI and Rack), also from trailers, and the names are taken out of
``Connection``, which would make the next hop drop them. That holds only while this end and the upstream agree where
each request begins. So heads are taken strictly, after the rules that h11 has and RFC 9112 asks for, and whatever
could be read in two ways is refused (:class:`~symphony.relay.http_framing.HttpHeadError`).

An upgrade to another version of HTTP (``h2c``) or to TLS would carry requests that cannot be read here; the Upgrade
field is left out of such a request, which every server may do as well (RFC 9110 section 7.8), and the answer is a
plain one.
"""

from __future__ import annotations

import re

from symphony.relay.http_answer import CONNECT, HEAD, PLAIN, UPGRADE
from symphony.relay.http_framing import (
    FIELDS,
    MAX_HEAD,
    TOKEN,
    HttpHeadError,
    check_unfinished,
    content_length,
    diagnose_fields,
)

CHUNKED = -2
"""In the place of a body's length: it comes in chunks."""
NO_BODY = -1
"""In the place of a body's length: the head does not say, so there is none."""

_REQUEST_LINE = b"(?:\r\n)?(" + TOKEN + rb") ([\x21-\x7e]++) HTTP/1\.([01])\r\n"
REQUEST = re.compile(_REQUEST_LINE + FIELDS + b"\r\n")
_LINE = re.compile(_REQUEST_LINE)
_OTHER_VERSION = re.compile(TOKEN + rb" [\x21-\x7e]++ HTTP/(?!1\.[01]\r)[0-9.]++\r\n")
TRAILERS = re.compile(FIELDS + b"\r\n")
_SEPARATOR = rb"[!#$%&'*+\-.^_`|~]"
_OURS = b"|".join(
    name.replace(b"-", _SEPARATOR)
    for name in (b"x-forwarded-for", b"x-forwarded-proto", b"x-real-ip", b"x-ja3", b"x-ja4")
)
_FRAMING = rb"content-length|transfer-encoding".replace(b"-", _SEPARATOR)
_SPECIAL = re.compile(
    rb"(?i)\r\n(host|connection|upgrade|" + _FRAMING + b"|" + _OURS + rb"):([^\r]*)",
)
_OUR_NAME = re.compile(b"(?i)(?:" + _OURS + b")")
_UNREADABLE = re.compile(rb"(?i)(?:^|,)[ \t]*(?:h2c?|http|tls)[ \t]*(?:/|,|$)")


def identity_fields(address: str, scheme: str = "https", ja3: str = "", ja4: str = "") -> bytes:
    """Return the field lines that name a client; the fingerprints only where given.

    Raises ValueError for values that would not stay in their line.
    """
    fields = [("X-Forwarded-For", address), ("X-Forwarded-Proto", scheme), ("X-Real-IP", address)]
    fields += [("X-JA3", ja3)] if ja3 else []
    fields += [("X-JA4", ja4)] if ja4 else []
    for _, value in fields:
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"{value!r} is no field value")
    return "".join(f"{name}: {value}\r\n" for name, value in fields).encode("ascii")


def rewrite_head(
    found: re.Match[bytes], head: bytes, end: bytes, may_upgrade: bool
) -> tuple[bytes, int, int]:
    """Return the head with `end`, the fields to set and the empty line, at its end; its kind; its body's length.

    `found` is a match of :data:`REQUEST`, and `head` the bytes of it from its method on. The kind is one of those of
    :mod:`symphony.relay.http_answer`; the length may be :data:`CHUNKED` or :data:`NO_BODY`. Unless it
    `may_upgrade`, ask for another protocol, its Upgrade field is left out. Raises HttpHeadError.
    """
    if found.end() - found.start() > MAX_HEAD:
        raise HttpHeadError("head_too_long", f"a head of {len(head)} bytes; at most {MAX_HEAD} are taken")
    method, version = found[1], found[3]
    length = NO_BODY
    chunked = False
    hosts = 0
    kept: list[bytes] = []
    kind = PLAIN
    at = 0
    for field in _SPECIAL.finditer(head):
        name = field[1].lower()
        if name == b"host":
            hosts += 1
        elif name == b"connection":
            options = _without_ours(field[2])
            if options is not None:
                kept += (head[at : field.start(2)], options)
                at = field.end()
        elif name == b"content-length":
            if length >= 0:
                raise HttpHeadError("content_length", "more than one Content-Length")
            length = content_length(field[2])
        elif name == b"transfer-encoding":
            if chunked:
                raise HttpHeadError("transfer_encoding", "more than one Transfer-Encoding")
            chunked = _is_chunked(field[2], version)
        elif name == b"upgrade":
            if kind == UPGRADE:
                raise HttpHeadError("upgrade", "more than one Upgrade")
            if not may_upgrade or _UNREADABLE.search(field[2]):
                kept.append(head[at : field.start()])
                at = field.end()
            else:
                kind = UPGRADE
        elif name[0] == 0x78:  # x: one of ours
            kept.append(head[at : field.start()])
            at = field.end()
        else:
            raise HttpHeadError(
                "ambiguous_field", f"{name!r}, which some take for a field that frames the body"
            )
    if chunked and length >= 0:
        raise HttpHeadError("length_conflict", "both Content-Length and Transfer-Encoding")
    if hosts > 1 or (not hosts and version == b"1"):
        raise HttpHeadError("host", "more than one Host" if hosts else "an HTTP/1.1 request without Host")
    kept.append(head[at:-2])
    kept.append(end)
    if method == b"HEAD":
        kind |= HEAD
    elif method == b"CONNECT":
        if chunked or length > 0:
            raise HttpHeadError("length_conflict", "a CONNECT request with a body")
        kind = CONNECT
    return b"".join(kept), kind, CHUNKED if chunked else length


def diagnose_head(head: bytes) -> HttpHeadError:
    """Say why a head, which has its end, is no request."""
    head = head.removeprefix(b"\r\n")
    try:
        check_unfinished(head)
    except HttpHeadError as error:
        return error
    line = _LINE.match(head)
    if line is None:
        if _OTHER_VERSION.match(head):
            return HttpHeadError("version", "neither HTTP/1.0 nor HTTP/1.1")
        return HttpHeadError("request_line", f"{head[:60].split(bytes((13,)))[0]!r} is no request line")
    return diagnose_fields(head[line.end() :].removesuffix(b"\r\n"))


def _is_chunked(value: bytes, version: bytes) -> bool:
    coding = value.strip(b" \t").lower()
    if coding != b"chunked":
        raise HttpHeadError("transfer_encoding", f"transfer coding {coding[:60]!r}; expected chunked alone")
    if version == b"0":
        raise HttpHeadError("transfer_encoding", "Transfer-Encoding in an HTTP/1.0 request")
    return True


def _without_ours(options: bytes) -> bytes | None:
    """Return connection options without the names of our fields; None when none is among them."""
    names = options.split(b",")
    kept = [name for name in names if not _OUR_NAME.fullmatch(name.strip(b" \t"))]
    return None if len(kept) == len(names) else b",".join(kept)


def clean_trailers(trailers: bytes) -> bytes:
    """Leave our fields out of a trailer section; refuse those that must not be there (RFC 9110 section 6.5.1)."""
    kept: list[bytes] = []
    at = 0
    lines = b"\r\n" + trailers
    for field in _SPECIAL.finditer(lines):
        if not _OUR_NAME.fullmatch(field[1]):
            raise HttpHeadError("trailer", f"{field[1]!r} in a trailer section")
        kept.append(lines[at : field.start()])
        at = field.end()
    kept.append(lines[at:])
    return b"".join(kept)[2:]
