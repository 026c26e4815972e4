"""The demo's HTTP service on a real Unix socket."""

from __future__ import annotations

import asyncio
import http.client
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator

import pytest

from symphony.demo.service import DemoConnection


class UnixHttp(http.client.HTTPConnection):
    """http.client over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


@pytest.fixture
async def service() -> AsyncIterator[str]:
    directory = tempfile.mkdtemp(prefix="sy", dir="/tmp")
    path = os.path.join(directory, "demo")
    server = await asyncio.get_running_loop().create_unix_server(DemoConnection, path)
    yield path
    server.close()
    await server.wait_closed()
    shutil.rmtree(directory)


async def test_one_connection_carries_many_requests(service: str) -> None:
    def requests() -> list[tuple[int, str]]:
        client = UnixHttp(service)
        found = []
        for method, path in [("GET", "/"), ("GET", "/nothing"), ("HEAD", "/bytes/5"), ("GET", "/bytes/0")]:
            client.request(method, path)
            answer = client.getresponse()
            found.append((answer.status, answer.read().decode()))
        client.request("POST", "/?x", body=b"a" * 300_000)
        answer = client.getresponse()
        found.append((answer.status, answer.read().decode()))
        client.close()
        return found

    found = await asyncio.to_thread(requests)
    assert [status for status, _ in found] == [200, 404, 200, 200, 200]
    assert f"service process {os.getpid()}" in found[0][1]
    assert found[2][1] == found[3][1] == ""
    assert "300000 bytes received" in found[4][1]


async def test_many_bytes_arrive_in_full_at_a_client_that_half_closes(service: str) -> None:
    reader, writer = await asyncio.open_unix_connection(service)
    writer.write(b"GET /bytes/9000001 HTTP/1.1\r\nHost: x\r\n\r\n")
    writer.write_eof()
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read(-1)
    assert b"9000001" in head
    assert body == bytes(9000001)
    writer.close()
    await writer.wait_closed()


async def test_what_is_not_http_ends_the_connection(service: str) -> None:
    reader, writer = await asyncio.open_unix_connection(service)
    writer.write(b"\x16\x03\x01 nonsense\r\n\r\n")
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
