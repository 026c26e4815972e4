"""Real services to put behind the proxy, each with a name that it answers with; all in one thread.

One protocol serves every client: a line is answered by the service's name and the line, and the connection goes on; an
HTTP request is answered by the service's name as the body, and the connection is closed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import tempfile
import threading
from collections import Counter
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

from symphony.tls.certificate_maker import MadeCertificate

LIMIT_S = 10.0


class NamedServices:
    """Starts services, and stops them all at the end of the ``with`` block. `served` counts connections by name."""

    def __init__(self) -> None:
        self.served: Counter[str] = Counter()
        self._directory = tempfile.mkdtemp(prefix="sy", dir="/tmp")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="services")
        self._servers: list[asyncio.Server] = []
        self._open: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> NamedServices:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()
        shutil.rmtree(self._directory)

    def tcp(self, name: str) -> int:
        """Start a service on a TCP port; return the port."""
        return self._start_tcp(name, None)

    def tls(self, name: str, certificate: MadeCertificate) -> int:
        """Start a service that speaks TLS itself; return its port."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        path = os.path.join(self._directory, f"{name}.pem")
        with open(path, "wb") as file:
            file.write(certificate.chain_pem + certificate.key_pem)
        context.load_cert_chain(path)
        return self._start_tcp(name, context)

    def uds(self, name: str) -> str:
        """Start a service on a Unix socket; return its path."""
        path = os.path.join(self._directory, f"{name}.sock")
        self._servers.append(self._run(asyncio.start_unix_server(self._handler(name), path)))
        return path

    def _start_tcp(self, name: str, context: ssl.SSLContext | None) -> int:
        server = self._run(asyncio.start_server(self._handler(name), "127.0.0.1", 0, ssl=context))
        self._servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT_S)

    def _handler(self, name: str) -> Any:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.served[name] += 1
            self._open.add(writer)
            try:
                await _converse(name, reader, writer)
            except (OSError, asyncio.CancelledError):
                pass  # the client or the proxy is gone: what that means is for the test to say
            finally:
                self._open.discard(writer)
                writer.close()

        return serve

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        for writer in tuple(self._open):
            writer.transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _converse(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        if line.startswith(b"GET "):
            while (await reader.readline()).strip():
                pass
            body = name.encode() + b"\n"
            head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            return
        writer.write(name.encode() + b" " + line)
        await writer.drain()
