"""Sets the fields that name the client on every request of a terminated HTTP/1.x connection. Bytes in, bytes out.

The client's own copies of those fields are removed, in any case and with any separator (``X_Forwarded-For`` becomes
the same variable as ``X-Forwarded-For`` in CGI, WSGI and Rack), also from trailers, and the names are taken out of
``Connection``, which would make the next hop drop them. That holds only while this end and the upstream agree where
each request begins. So heads are taken strictly, after the rules that h11 has and RFC 9112 asks for, and whatever
could be read in two ways is refused (:class:`~symphony.relay.http_framing.HttpHeadError`): nothing of the head in
question, and nothing behind it, is passed on, and the connection must be ended.

States
    head -> body by length | chunks -> trailers | -> head ... ; behind a request that asks for another protocol
    (Upgrade, CONNECT) -> waiting -> opaque | head.

Only the upstream's answer says whether the protocol changes, and a rewriter that took its own guess could be talked
into letting requests through unread. So the upstream's bytes are shown to :meth:`HeadRewriter.answer`, which follows
the responses (:mod:`symphony.relay.http_answer`). While `waiting`, what the client sends is kept back, and once it
`is_full` the client should not be read; one that waits for the 101, as it must (RFC 9110 section 7.8), notices nothing.

An upgrade to another version of HTTP (``h2c``) or to TLS would carry requests that cannot be read here; the Upgrade
field is left out of such a request, which every server may do as well (section 7.8), and the answer is a plain one.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from symphony.relay.http_answer import CONNECT, HEAD, PLAIN, UPGRADE, AnswerFollower
from symphony.relay.http_framing import (
    FIELDS,
    MAX_HEAD,
    TOKEN,
    Buffer,
    ChunkScanner,
    HttpHeadError,
    check_unfinished,
    content_length,
    diagnose_fields,
)

MAX_KEPT_BACK = 256 * 1024
"""Bytes that a client may send behind a request for another protocol before that is answered."""
ENOUGH_KEPT_BACK = 64 * 1024
"""So many of them are read; the rest can wait in the socket. Reading some shows the end of a client that leaves."""
MAX_UNANSWERED = 1000
"""Requests that may be under way on one connection."""

BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

_REQUEST_LINE = b"(?:\r\n)?(" + TOKEN + rb") ([\x21-\x7e]++) HTTP/1\.([01])\r\n"
_REQUEST = re.compile(_REQUEST_LINE + FIELDS + b"\r\n")
_LINE = re.compile(_REQUEST_LINE)
_OTHER_VERSION = re.compile(TOKEN + rb" [\x21-\x7e]++ HTTP/(?!1\.[01]\r)[0-9.]++\r\n")
_TRAILERS = re.compile(FIELDS + b"\r\n")
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


class Refusal(Enum):
    """When a client can be told, by a response of this end's own, that its request was refused."""

    NOW = "now"
    LATER = "later"
    """Behind answers that are still to come."""
    NEVER = "never"
    """It would be taken for something else: the request has its answer, or answers cannot be told apart."""


class HeadRewriter:
    """The requests of one connection. `fields` are the lines to set, from :func:`identity_fields`.

    Both directions must be shown to it: the client's bytes to :meth:`feed`, which says what goes on instead of them,
    and the upstream's to :meth:`answer`.
    """

    __slots__ = ("_answers", "_chunks", "_end", "_held", "_left", "_state", "_switches", "waiting")

    def __init__(self, fields: bytes) -> None:
        self._end = fields + b"\r\n"
        self._answers = AnswerFollower()
        self._state = self._head
        self._held = bytearray()  # of a head or a trailer section that is not whole yet, or kept back
        self._left = 0
        self._chunks = ChunkScanner()
        self._switches = False  # the request at hand asks for another protocol
        self.waiting = False
        """Whether the client's bytes are kept back for an answer."""

    @property
    def opaque(self) -> bool:
        """Whether the protocol has changed: everything passes as it is, and this object is no longer needed."""
        return self._state == self._opaque and not self._held

    @property
    def unanswered(self) -> int:
        """How many requests have been passed on, in part at least, and no answer to them has begun."""
        return len(self._answers.awaited)

    @property
    def keeps(self) -> bool:
        """Whether there are bytes of the client that are kept back until an answer decides what they are."""
        return self.waiting and bool(self._held)

    @property
    def is_full(self) -> bool:
        """Whether so much is kept back that the client is not to be read until the answer is there."""
        return self.waiting and len(self._held) >= ENOUGH_KEPT_BACK

    @property
    def in_request(self) -> bool:
        """Whether the upstream has the head of a request and not the end of its body."""
        return self._state in (self._body, self._chunked, self._trailers)

    @property
    def refusal(self) -> Refusal:
        """With a request refused: whether its client can be told so."""
        answers = self._answers
        if answers.is_lost:
            return Refusal.NEVER
        before = len(answers.awaited)
        if self.in_request:  # the request at fault is itself among those that await an answer, or has one
            if not before:
                return Refusal.NEVER
            before -= 1
        return Refusal.LATER if before or not answers.is_between else Refusal.NOW

    def feed(self, data: Buffer) -> list[Buffer]:
        """Take bytes from the client and return what goes to the upstream, in order.

        Bodies come back as slices of `data`: they must be written or copied before its memory is used again. Raises
        HttpHeadError; then nothing more may be fed.
        """
        out: list[Buffer] = []
        view = memoryview(data)
        at, end = 0, len(view)
        try:
            while at < end:
                at = self._state(view, at, out)
        except HttpHeadError as error:
            error.passed = out
            raise
        return out

    def answer(self, data: Buffer) -> list[Buffer]:
        """See bytes that go from the upstream to the client, and return what had been kept back for them.

        Raises HttpHeadError when what was kept back turns out to be a bad request.
        """
        self._answers.feed(memoryview(data))
        if self.waiting and self._answers.decided is not None:
            self.waiting = False
            kept = bytes(self._held)
            self._held.clear()
            self._after_request()
            return self.feed(kept)
        return []

    def _head(self, view: memoryview, at: int, out: list[Buffer]) -> int:
        if not self._held:
            found = _REQUEST.match(view, at)
            if found is not None:
                end = found.end()
                self._rewrite(found, bytes(view[found.start(1) : end]), out)
                return end
        held = self._held
        before = len(held)
        held += view[at : at + MAX_HEAD + 1]
        stop = held.find(b"\r\n\r\n", max(0, before - 3)) + 4
        if stop < 4:
            check_unfinished(held, before)
            return len(view)
        head = bytes(held[:stop])
        held.clear()
        found = _REQUEST.fullmatch(head)
        if found is None:
            raise _diagnose(head)
        self._rewrite(found, head[found.start(1) :], out)
        return at + stop - before

    def _rewrite(self, found: re.Match[bytes], head: bytes, out: list[Buffer]) -> None:
        """Append the head with the fields set, and go to the state that reads what follows it."""
        if found.end() - found.start() > MAX_HEAD:
            raise HttpHeadError("head_too_long", f"a head of {len(head)} bytes; at most {MAX_HEAD} are taken")
        method, version = found[1], found[3]
        length = -1
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
                if self._answers.lost or _UNREADABLE.search(field[2]):
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
        kept.append(self._end)
        if method == b"HEAD":
            kind |= HEAD
        elif method == b"CONNECT":
            if chunked or length > 0:
                raise HttpHeadError("length_conflict", "a CONNECT request with a body")
            kind = CONNECT
        if len(self._answers.awaited) >= MAX_UNANSWERED:
            raise HttpHeadError("pipelined", f"{MAX_UNANSWERED} requests without an answer")
        self._switches = self._answers.expect(kind)
        out.append(b"".join(kept))
        if chunked:
            self._chunks = ChunkScanner()
            self._state = self._chunked
        elif length > 0:
            self._left = length
            self._state = self._body
        elif self._switches:
            self._after_request()

    def _after_request(self) -> None:
        """Go to the state behind a request: its whole body has been passed on."""
        if not self._switches:
            self._state = self._head
        elif self._answers.decided is None:
            self.waiting = True
            self._state = self._keep_back
        else:
            self._switches = False
            self._state = self._opaque if self._answers.decided else self._head

    def _body(self, view: memoryview, at: int, out: list[Buffer]) -> int:
        end = min(len(view), at + self._left)
        self._left -= end - at
        out.append(view[at:end])
        if not self._left:
            self._after_request()
        return end

    def _chunked(self, view: memoryview, at: int, out: list[Buffer]) -> int:
        at = self._chunks.scan(view, at, out)
        if self._chunks.finished:
            self._state = self._trailers
        return at

    def _trailers(self, view: memoryview, at: int, out: list[Buffer]) -> int:
        held = self._held
        before = len(held)
        held += view[at : at + MAX_HEAD + 1]
        if held[:2] == b"\r\n":
            stop = 2
        else:
            stop = held.find(b"\r\n\r\n", max(0, before - 3)) + 4
            if stop < 4:
                check_unfinished(held, before)
                return len(view)
        trailers = bytes(held[:stop])
        held.clear()
        if not _TRAILERS.fullmatch(trailers):
            raise diagnose_fields(trailers.removesuffix(b"\r\n"))
        out.append(_clean_trailers(trailers) if stop > 2 else trailers)
        self._after_request()
        return at + stop - before

    def _keep_back(self, view: memoryview, at: int, out: list[Buffer]) -> int:
        self._held += view[at:]
        if len(self._held) > MAX_KEPT_BACK:
            raise HttpHeadError(
                "early_data", f"more than {MAX_KEPT_BACK} bytes before the protocol has changed"
            )
        return len(view)

    def _opaque(self, view: memoryview, at: int, out: list[Buffer]) -> int:
        out.append(view[at:])
        return len(view)


def _diagnose(head: bytes) -> HttpHeadError:
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


def _clean_trailers(trailers: bytes) -> bytes:
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
