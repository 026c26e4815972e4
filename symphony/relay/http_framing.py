"""What HTTP/1.x requests and responses share on the wire (RFC 9112): field lines, chunks, and refusing the rest.

Everything is taken strictly: a line that two implementations could read in two ways is how requests are smuggled
past one of them, so nothing is repaired and nothing ambiguous is passed on.
"""

from __future__ import annotations

import re

Buffer = bytes | memoryview

MAX_HEAD = 32 * 1024
"""Bytes of a request line with its fields, or of a trailer section."""
MAX_CHUNK_LINE = 1024
"""Bytes of a chunk's size with its extensions."""

# Possessive quantifiers (++, *+): no backtracking, so that no input takes more than linear time.
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
FIELDS = rb"(?:" + TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+\r\n)*+"

_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
_FIELD_NAME = re.compile(TOKEN)
_EXTENSION = rb"(?:;[\t\x20-\x7e\x80-\xff]*+)?+"
_FIRST_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15}+)" + _EXTENSION + rb"\r\n")
_NEXT_CHUNK = re.compile(rb"\r\n([0-9A-Fa-f]{1,15}+)" + _EXTENSION + rb"\r\n")


class HttpHeadError(Exception):
    """Bytes that are not passed on; `reason` is one word for counting, the text says what is wrong.

    `passed` is what came before them in the same bytes, and may be passed on.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.passed: list[Buffer] = []


def check_unfinished(data: bytes | bytearray, start: int = 0) -> None:
    """Raise for the start of a head, or of trailers, that no more bytes can put right.

    What is before `start` has been checked; a CR there may still turn out to stand alone.
    """
    start = max(0, start - 1)
    if len(data) > MAX_HEAD:
        raise HttpHeadError("head_too_long", f"no end of the fields within {MAX_HEAD} bytes")
    if data.find(0, start) >= 0:
        raise HttpHeadError("nul", "a zero byte in a line")
    if _BARE.search(data, start):
        raise HttpHeadError("bare_cr_lf", "a CR or LF that is not part of a line's end")


def diagnose_fields(data: bytes) -> HttpHeadError:
    """Say why field lines (with the empty one behind them) do not match :data:`FIELDS`."""
    try:
        check_unfinished(data)
    except HttpHeadError as error:
        return error
    for line in data.removesuffix(b"\r\n").split(b"\r\n"):
        name, colon, _ = line.partition(b":")
        if line[:1] in (b" ", b"\t"):
            return HttpHeadError("obs_fold", "a field continued on a second line")
        if colon and name != name.rstrip(b" \t"):
            return HttpHeadError("space_before_colon", f"whitespace between {name[:60]!r} and its colon")
        if not colon or not _FIELD_NAME.fullmatch(name):
            return HttpHeadError("field_name", f"{name[:60]!r} is no field name")
    return HttpHeadError("field_value", "a control character in a field's value")


def content_length(value: bytes) -> int:
    """Read a Content-Length. Raises HttpHeadError for anything but 1 to 18 digits."""
    digits = value.strip(b" \t")
    if not digits.isdigit() or len(digits) > 18:
        raise HttpHeadError("content_length", f"Content-Length {digits[:60]!r}; expected one number")
    return int(digits)


class ChunkScanner:
    """Finds the end of a chunked body (RFC 9112 section 7.1), all but its trailer section.

    `finished` is set behind the last chunk's line. A line that is cut off is kept back until the rest of it comes, so
    that nothing is passed on before it is known to be right.
    """

    __slots__ = ("_held", "_left", "_line", "finished")

    def __init__(self) -> None:
        self._line = _FIRST_CHUNK
        self._left = 0
        self._held = b""
        self.finished = False

    def scan(self, view: memoryview, at: int, out: list[Buffer]) -> int:
        """Append what of ``view[at:]`` may be passed on to `out`; return where the chunks end, or the end of `view`.

        Raises HttpHeadError ("chunk").
        """
        end = len(view)
        if self._held:
            at = self._scan_held(view, at, out)
        start = at
        while not self.finished:
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
                if self._left:
                    break
            if at == end:
                break
            found = self._line.match(view, at)
            if found is None:
                if self._line is _NEXT_CHUNK and bytes(view[at : at + 2]) == b"\r\n":
                    # The end of a chunk goes on at once: the sender may wait for an answer before the next one.
                    self._line = _FIRST_CHUNK
                    at += 2
                    continue
                if at > start:
                    out.append(view[start:at])
                    start = at
                self._hold(bytes(view[at : at + MAX_CHUNK_LINE + 1]))
                break
            at = found.end()
            self._take(found[1])
        if at > start:
            out.append(view[start:at])
        return at if self.finished else len(view)

    def _scan_held(self, view: memoryview, at: int, out: list[Buffer]) -> int:
        line = self._held + bytes(view[at : at + MAX_CHUNK_LINE])
        found = self._line.match(line)
        if found is None:
            if self._line is _NEXT_CHUNK and line.startswith(b"\r\n"):
                self._held = b""
                self._line = _FIRST_CHUNK
                out.append(b"\r\n")
                return at + 1  # what was held is the CR
            self._hold(line)
            return len(view)
        at += found.end() - len(self._held)
        self._held = b""
        out.append(found[0])
        self._take(found[1])
        return at

    def _take(self, size: bytes) -> None:
        self._left = int(size, 16)
        self._line = _NEXT_CHUNK
        self.finished = not self._left

    def _hold(self, line: bytes) -> None:
        data_end = 2 if self._line is _NEXT_CHUNK else 0
        if len(line) > MAX_CHUNK_LINE or b"\n" in line[data_end:] or not b"\r\n".startswith(line[:data_end]):
            raise HttpHeadError("chunk", f"{line[:40]!r} where a chunk's size must be")
        self._held = line
