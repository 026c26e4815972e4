"""What the backend serves and what the client sends: fixed bytes, so that every answer can be compared."""

from __future__ import annotations

import hashlib

SERVER_NAME = "bench.test"
MEBIBYTE = 1 << 20
VERIFIED = b"verified"

SMALL = hashlib.shake_128(b"small").hexdigest(64).encode()
DOWN = hashlib.shake_128(b"down").digest(MEBIBYTE)
UP = hashlib.shake_128(b"up").digest(MEBIBYTE)


def request_for(kind: str) -> tuple[bytes, bytes]:
    """Return the bytes to send and the body to expect for an operation: `small`, `down`, `up`, `both` or `echo-N`.

    `both` sends one MiB and receives one at the same time; the backend adds `VERIFIED` once it has compared what it
    received, so a corrupted upload is seen by the client as a wrong answer. `echo-N` sends N bytes, to come back.
    """
    host = SERVER_NAME.encode()
    get = b"GET /%s HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
    post = b"POST /%s HTTP/1.1\r\nHost: " + host + b"\r\nContent-Length: %d\r\n\r\n"
    if kind == "small":
        return get % b"small", SMALL
    if kind == "down":
        return get % b"down", DOWN
    if kind == "up":
        return post % (b"up", MEBIBYTE) + UP, VERIFIED
    if kind == "both":
        return post % (b"both", MEBIBYTE) + UP, DOWN + VERIFIED
    size = kind.removeprefix("echo-")
    if size != kind and size.isdecimal():
        body = hashlib.shake_128(kind.encode()).digest(int(size))
        return post % (b"echo", len(body)) + body, body
    raise ValueError(f"unknown operation {kind!r}")
