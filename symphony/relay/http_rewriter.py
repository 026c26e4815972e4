"""Sets the fields that name the client on every request of a terminated HTTP/1.x connection. Bytes in, bytes out.

What one head becomes is :mod:`symphony.relay.http_head`. When one is refused, nothing of it, and nothing behind it, is
passed on, and the connection must be ended.

States
    head -> body by length | chunks -> trailers | -> head ... ; behind a request that asks for another protocol
    (Upgrade, CONNECT) -> waiting -> opaque | head.

Only the upstream's answer says whether the protocol changes, and a rewriter that took its own guess could be talked
into letting requests through unread. So the upstream's bytes are shown to :meth:`HeadRewriter.answer`, which follows
the responses (:mod:`symphony.relay.http_answer`). While `waiting`, what the client sends is kept back, and once it
`is_full` the client should not be read; one that waits for the 101, as it must (RFC 9110 section 7.8), notices nothing.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from symphony.relay.http_answer import AnswerFollower
from symphony.relay.http_framing import (
    MAX_HEAD,
    Buffer,
    ChunkScanner,
    HttpHeadError,
    check_unfinished,
    diagnose_fields,
)
from symphony.relay.http_head import CHUNKED, REQUEST, TRAILERS, clean_trailers, diagnose_head, rewrite_head

MAX_KEPT_BACK = 256 * 1024
"""Bytes that a client may send behind a request for another protocol before that is answered."""
ENOUGH_KEPT_BACK = 64 * 1024
"""So many of them are read; the rest can wait in the socket. Reading some shows the end of a client that leaves."""
MAX_UNANSWERED = 1000
"""Requests that may be under way on one connection."""

BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Refusal(Enum):
    """When a client can be told, by a response of this end's own, that its request was refused."""

    NOW = "now"
    LATER = "later"
    """Behind answers that are still to come."""
    NEVER = "never"
    """It would be taken for something else: the request has its answer, or answers cannot be told apart."""


class HeadRewriter:
    """The requests of one connection. `fields` are the lines to set (:func:`symphony.relay.http_head.identity_fields`).

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
            found = REQUEST.match(view, at)
            if found is not None:
                end = found.end()
                self._rewrite(found, bytes(view[found.start(1) : end]), out)
                return end
        head, at = self._take(view, at)
        if head:
            found = REQUEST.fullmatch(head)
            if found is None:
                raise diagnose_head(head)
            self._rewrite(found, head[found.start(1) :], out)
        return at

    def _take(self, view: memoryview, at: int, *, may_be_empty: bool = False) -> tuple[bytes, int]:
        """Hold bytes until the empty line behind them is there; return them all, or none yet, and how far was read.

        There are lines before the empty one, unless there `may_be_empty` ones.
        """
        held = self._held
        before = len(held)
        held += view[at : at + MAX_HEAD + 1]
        if may_be_empty and held[:2] == b"\r\n":
            stop = 2
        else:
            stop = held.find(b"\r\n\r\n", max(0, before - 3)) + 4
            if stop < 4:
                check_unfinished(held, before)
                return b"", len(view)
        taken = bytes(held[:stop])
        held.clear()
        return taken, at + stop - before

    def _rewrite(self, found: re.Match[bytes], head: bytes, out: list[Buffer]) -> None:
        """Append the head with the fields set, and go to the state that reads what follows it."""
        answers = self._answers
        rewritten, kind, length = rewrite_head(found, head, self._end, not answers.lost)
        if len(answers.awaited) >= MAX_UNANSWERED:
            raise HttpHeadError("pipelined", f"{MAX_UNANSWERED} requests without an answer")
        self._switches = answers.expect(kind)
        out.append(rewritten)
        if length == CHUNKED:
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
        trailers, at = self._take(view, at, may_be_empty=True)
        if trailers:
            if not TRAILERS.fullmatch(trailers):
                raise diagnose_fields(trailers.removesuffix(b"\r\n"))
            out.append(clean_trailers(trailers) if len(trailers) > 2 else trailers)
            self._after_request()
        return at

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
