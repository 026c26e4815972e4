"""Follows the responses of an HTTP/1.x connection only as far as it takes to know which request each one answers.

A response is never changed or held up. When one cannot be followed, the follower is `lost` for good and says so by
never letting the protocol change: then every byte of the client goes on being read as HTTP.
"""

from __future__ import annotations

import re
from collections import deque

from symphony.relay.http_framing import FIELDS, Buffer, ChunkScanner, HttpHeadError, content_length

PLAIN, HEAD, UPGRADE, CONNECT = 0, 1, 2, 4

_MAX_HEAD = 64 * 1024  # an upstream is trusted with longer heads than a client
_RESPONSE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n\0]*+)?+\r\n" + FIELDS + b"\r\n")
_LENGTHS = re.compile(rb"(?i)\r\n(content-length|transfer-encoding):([^\r]*)")
_TRAILERS = re.compile(FIELDS + b"\r\n")


class AnswerFollower:
    """The responses of one connection. `awaited` holds the kinds of the requests that have no whole answer yet.

    `decided` is what became of the last request that asked for another protocol: None until it is answered, then
    whether the protocol has changed.
    """

    __slots__ = ("_chunks", "_held", "_left", "_state", "awaited", "decided", "lost")

    def __init__(self) -> None:
        self.awaited: deque[int] = deque()
        self.decided: bool | None = None
        self.lost = False
        self._state = self._head
        self._held = b""
        self._left = 0
        self._chunks = ChunkScanner()

    @property
    def is_between(self) -> bool:
        """Whether no response has begun that is not over."""
        return self._state == self._head and not self._held

    @property
    def is_lost(self) -> bool:
        """Whether no end of a response can be told any more: none could be followed, or one lasts as long as it can."""
        return self.lost or self._state == self._ignore

    def expect(self, kind: int) -> bool:
        """Note a request that is sent; return whether its answer may change the protocol.

        Raises HttpHeadError for a CONNECT whose answer could not be told from others.
        """
        switches = kind & (UPGRADE | CONNECT) != 0
        if self.lost:
            if kind == CONNECT:
                raise HttpHeadError("connect", "CONNECT behind a response that could not be followed")
            self.decided = False
            return switches
        self.awaited.append(kind)
        if switches:
            self.decided = None
        return switches

    def feed(self, view: memoryview) -> None:
        """See what the upstream sends."""
        at, end = 0, len(view)
        while at < end:
            try:
                at = self._state(view, at)
            except HttpHeadError:
                self._lose()

    def _lose(self) -> None:
        self.lost = True
        self.decided = False
        self._held = b""
        self._state = self._ignore

    def _head(self, view: memoryview, at: int) -> int:
        data = self._held + bytes(view[at : at + _MAX_HEAD]) if self._held else view
        start = 0 if self._held else at
        found = _RESPONSE.match(data, start)
        if found is None:
            rest = bytes(data[start:])
            if len(rest) > _MAX_HEAD or b"\r\n\r\n" in rest or not b"HTTP/1.".startswith(rest[:7]):
                raise HttpHeadError("response", "no response head")
            self._held = rest
            return len(view)
        end = at + found.end() - start - len(self._held)
        self._held = b""
        self._take(int(found[2]), found[0])
        return end

    def _take(self, status: int, head: bytes) -> None:
        """Go to the state that reads what follows a head (RFC 9112 section 6.3)."""
        if not self.awaited:
            raise HttpHeadError("response", "a response to no request")
        kind = self.awaited[0]
        if status < 200 and status != 101:
            return  # an interim response; the final one comes behind it
        self.awaited.popleft()
        if kind & (UPGRADE | CONNECT):
            self.decided = status == 101 if kind & UPGRADE else status < 300 and status != 101
            if self.decided:
                self._state = self._ignore
                return
        if status == 101:
            raise HttpHeadError("response", "101 to a request that did not ask for it")
        if kind & HEAD or status in (204, 304):
            return
        length = -1
        for field in _LENGTHS.finditer(head):
            if field[1].lower() == b"transfer-encoding":
                chunked = field[2].strip(b" \t").lower() == b"chunked"
                self._chunks = ChunkScanner()
                self._state = self._chunked if chunked else self._ignore
                return
            if length not in (-1, found := content_length(field[2])):
                raise HttpHeadError("content_length", "conflicting lengths")
            length = found
        if length > 0:
            self._left = length
            self._state = self._body
        elif length < 0:
            self._state = self._ignore  # up to the end of the connection

    def _body(self, view: memoryview, at: int) -> int:
        end = min(len(view), at + self._left)
        self._left -= end - at
        if not self._left:
            self._state = self._head
        return end

    def _chunked(self, view: memoryview, at: int) -> int:
        passed: list[Buffer] = []
        at = self._chunks.scan(view, at, passed)
        if self._chunks.finished:
            self._state = self._trailers
        return at

    def _trailers(self, view: memoryview, at: int) -> int:
        data = self._held + bytes(view[at : at + _MAX_HEAD])
        found = _TRAILERS.match(data)
        if found is None:
            if len(data) > _MAX_HEAD or b"\r\n\r\n" in data:
                raise HttpHeadError("response", "no trailer section")
            self._held = data
            return len(view)
        at += found.end() - len(self._held)
        self._held = b""
        self._state = self._head
        return at

    def _ignore(self, view: memoryview, at: int) -> int:
        return len(view)
