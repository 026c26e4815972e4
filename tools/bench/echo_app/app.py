"""An echo application on asyncio (uvloop) and h11: every request is answered with its body.

python app.py plain PORT | https PORT CHAIN KEY | unix PATH
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import cast

import h11
import uvloop


class Echo(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        """Begin with no request."""
        self._http = h11.Connection(h11.SERVER)
        self._transport: asyncio.Transport | None = None
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer every request that is there."""
        assert self._transport is not None
        self._http.receive_data(data)
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._transport.write(self._answer())
                if self._http.our_state is h11.MUST_CLOSE:
                    self._transport.close()
                    return
                self._http.start_next_cycle()
            elif event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
                return

    def _answer(self) -> bytes:
        body, self._body = bytes(self._body), bytearray()
        headers = [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))]
        sent = [
            self._http.send(h11.Response(status_code=200, headers=headers)),
            self._http.send(h11.Data(data=body)),
            self._http.send(h11.EndOfMessage()),
        ]
        return b"".join(part for part in sent if part)


async def serve(kind: str, where: str, files: list[str]) -> None:
    """Serve until told to stop."""
    loop = asyncio.get_running_loop()
    if kind == "unix":
        server = await loop.create_unix_server(Echo, where)
    elif kind == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        server = await loop.create_server(Echo, "127.0.0.1", int(where), ssl=context)
    else:
        server = await loop.create_server(Echo, "127.0.0.1", int(where))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2], sys.argv[3:]))
