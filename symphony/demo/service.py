"""The small HTTP/1.1 service that ``symphony run --demo`` puts behind the proxy: one protocol per connection.

``/`` answers with a few lines of text, ``/bytes/N`` with N zero bytes; anything sent in is read and counted.
"""

from __future__ import annotations

import asyncio
import os
from typing import cast

import h11

_CHUNK = bytes(65536)
_MOST_BYTES = 1 << 40


class DemoConnection(asyncio.Protocol):
    """One connection to the service: h11 speaks the protocol, the transport's flow control sets the pace."""

    # Requests answered by this process, over all connections.
    answered = 0

    def __init__(self) -> None:
        self._http = h11.Connection(h11.SERVER)
        self._transport: asyncio.Transport | None = None
        self._request: h11.Request | None = None
        self._received = 0
        self._to_send = 0
        self._writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none of asyncio's classes

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        self._read_events()

    def eof_received(self) -> bool:
        """Keep the transport open: an answer may still be on its way to a client that has half-closed."""
        self._http.receive_data(b"")
        self._read_events()
        return self._to_send > 0

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._send_body()

    def _read_events(self) -> None:
        try:
            while self._to_send == 0:
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    if self._http.they_are_waiting_for_100_continue:
                        self._send(h11.InformationalResponse(status_code=100, headers=[]))
                    return
                if isinstance(event, h11.Request):
                    self._request = event
                    self._received = 0
                elif isinstance(event, h11.Data):
                    self._received += len(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    self._answer()
                elif isinstance(event, h11.ConnectionClosed):
                    self._close()
                    return
        except h11.RemoteProtocolError:
            self._close()

    def _answer(self) -> None:
        assert self._request is not None
        type(self).answered += 1
        path = self._request.target.decode("latin-1").partition("?")[0]
        if path == "/":
            text = (
                "Symphony works: this answer came through TLS from a service on a Unix socket.\n"
                f"service process {os.getpid()}, request {self.answered}, {self._received} bytes received\n"
            )
            self._start(200, "text/plain; charset=utf-8", text.encode())
        elif path.startswith("/bytes/") and path[7:].isascii() and path[7:].isdigit():
            self._start(200, "application/octet-stream", b"", min(int(path[7:19]), _MOST_BYTES))
        else:
            self._start(404, "text/plain; charset=utf-8", b"try / or /bytes/N\n")

    def _start(self, status: int, content_type: str, body: bytes, zeros: int = 0) -> None:
        assert self._request is not None
        headers = [("content-type", content_type), ("content-length", str(len(body) + zeros))]
        self._send(h11.Response(status_code=status, headers=headers))
        if self._request.method == b"HEAD":
            body, zeros = b"", 0
        if body:
            self._send(h11.Data(data=body))
        self._to_send = zeros
        if zeros:
            self._send_body()
        else:
            self._finish()

    def _send_body(self) -> None:
        if not self._to_send:
            return
        while self._to_send and self._writable:
            part = _CHUNK[: self._to_send]
            self._to_send -= len(part)
            self._send(h11.Data(data=part))
        if not self._to_send:
            self._finish()
            self._read_events()

    def _finish(self) -> None:
        self._send(h11.EndOfMessage())
        if self._http.our_state is h11.MUST_CLOSE:
            self._close()
        else:
            self._http.start_next_cycle()

    def _send(self, event: h11.Event) -> None:
        assert self._transport is not None
        data = self._http.send(event)
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def _close(self) -> None:
        assert self._transport is not None
        self._transport.close()
