"""One request, asked and answered, as a user's client would do it: to see whether something serves, and what."""

from __future__ import annotations

import contextlib
import socket
import ssl

from tools.bench.content import SERVER_NAME, request_for


class WrongAnswer(ConnectionError):
    """Something answers, but not what was asked for."""


def _receive(sock: socket.socket, size: int) -> tuple[bytes, bytes]:
    """Return head and body of an answer whose body is to have `size` bytes."""
    answer = b""
    while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < size:
        data = sock.recv(65536)
        if not data:
            break
        answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def ask(
    port: int, kind: str = "small", *, name: str = SERVER_NAME, plain: bool = False, timeout_s: float = 5.0
) -> bytes:
    """Make a request of a kind that the benchmark knows, and return the answer's head when its body is right.

    Raises WrongAnswer when it is not, and OSError when none comes. Certificates are not checked.
    """
    request, expected = request_for(kind)
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout_s))
        if not plain:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            sock = stack.enter_context(context.wrap_socket(sock, server_hostname=name))
        sock.sendall(request)
        head, body = _receive(sock, len(expected))
    if not head.startswith(b"HTTP/1.1 200 "):
        raise WrongAnswer(f"answer {head[:60]!r}")
    if body != expected:
        raise WrongAnswer("it answers wrongly")
    return head


def answered_by(port: int, name: str, backend: str) -> bool:
    """Say whether requests for a server name reach the `nginx` or the `sink` backend at this moment."""
    return (b"\r\nServer: nginx" in ask(port, name=name)) == (backend == "nginx")
