"""One request to an upstream and its answer, which is passed on byte for byte. Bytes in, bytes out; no sockets.

The answer is followed by h11, to tell that it is an answer at all before any of it is passed on, and where it ends.
"""

from __future__ import annotations

import h11

MAX_HEAD = 64 * 1024
"""Bytes of an answer's status line with its fields; an upstream is trusted with more than a client."""


class AnswerError(Exception):
    """What the upstream sends is not HTTP/1.x, or ends before its end."""


class UpstreamAnswer:
    """The answer to `request`, which asks for the connection to be closed and has no body."""

    __slots__ = ("_begun", "_held", "_http", "complete", "request_bytes")

    def __init__(self, request: h11.Request) -> None:
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self.request_bytes: bytes = self._http.send(request) + self._http.send(h11.EndOfMessage())
        self._held = b""
        self._begun = False
        self.complete = False
        """Whether the whole answer has been passed on."""

    def receive(self, data: bytes) -> bytes:
        """Take what the upstream has sent (nothing at its end); return what may be passed on now.

        Raises AnswerError; then nothing of `data` may be passed on.
        """
        if not data and not self._begun:
            raise AnswerError(
                "closed in the middle of an answer's head" if self._held else "closed without an answer"
            )
        try:
            self._http.receive_data(data)
            while not self.complete:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    break
                if isinstance(event, h11.Response):
                    self._begun = True
                elif isinstance(event, h11.EndOfMessage):
                    self.complete = True
        except h11.RemoteProtocolError as error:
            raise AnswerError(str(error)[:200]) from None
        if not self._begun:
            self._held += data
            return b""
        passed, self._held = self._held + data, b""
        if self.complete and (surplus := len(self._http.trailing_data[0])):
            passed = passed[:-surplus]  # the upstream goes on as if it had been asked for more
        return passed
