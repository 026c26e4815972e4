"""ClientHellos of real clients, as they come out of a socket."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable

from OpenSSL import SSL

HOST_NAME = "shop.example.com"
LIMIT_S = 20.0


def _receive_record(connection: socket.socket) -> bytes:
    connection.settimeout(LIMIT_S)
    data = b""
    while len(data) < 5 or len(data) < 5 + int.from_bytes(data[3:5], "big"):
        chunk = connection.recv(65536)
        assert chunk, "the client closed before its hello was there"
        data += chunk
    return data


def _capture(start: Callable[[int], object]) -> bytes:
    """Return the first TLS record that the client which `start(port)` starts sends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LIMIT_S)
        stop = start(server.getsockname()[1])
        try:
            connection, _ = server.accept()
            with connection:
                return _receive_record(connection)
        finally:
            if isinstance(stop, subprocess.Popen):
                stop.kill()
                stop.wait(LIMIT_S)
            elif isinstance(stop, threading.Thread):
                stop.join(LIMIT_S)
                assert not stop.is_alive()


def _command(*words: str) -> Callable[[int], object]:
    def start(port: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [word.replace("PORT", str(port)) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    return start


def _thread(handshake: Callable[[socket.socket], object]) -> Callable[[int], object]:
    def start(port: int) -> threading.Thread:
        def run() -> None:
            with (
                contextlib.suppress(OSError, SSL.Error),
                socket.create_connection(("127.0.0.1", port), LIMIT_S) as client,
            ):
                handshake(client)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    return start


def _python_ssl(client: socket.socket) -> None:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.wrap_socket(client, server_hostname=HOST_NAME).close()


def _pyopenssl(client: socket.socket) -> None:
    connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), client)
    connection.set_tlsext_host_name(HOST_NAME.encode())
    client.settimeout(None)
    connection.set_connect_state()
    connection.do_handshake()


CLIENTS: dict[str, Callable[[int], object]] = {
    "openssl": _command("openssl", "s_client", "-connect", "127.0.0.1:PORT", "-servername", HOST_NAME),
    "openssl_tls12": _command(
        "openssl", "s_client", "-connect", "127.0.0.1:PORT", "-servername", HOST_NAME, "-tls1_2"
    ),
    "openssl_no_name": _command("openssl", "s_client", "-connect", "127.0.0.1:PORT", "-noservername"),
    "curl": _command(
        "curl",
        "-sk",
        "--noproxy",
        "*",
        "--resolve",
        f"{HOST_NAME}:PORT:127.0.0.1",
        f"https://{HOST_NAME}:PORT/",
    ),
    "python_ssl": _thread(_python_ssl),
    "pyopenssl": _thread(_pyopenssl),
}


def capture(client: str) -> bytes:
    """Return the hello of one of :data:`CLIENTS`, record header included."""
    return _capture(CLIENTS[client])
