"""The client's TLS: OpenSSL on the descriptor, called through the cffi library that pyOpenSSL carries.

Parameters are pinned (X25519 first, AES-256-GCM), so that every proxy does the same cryptography whatever its library
prefers: a ratio between different ciphers would say nothing about the proxies. Where it is asked how proxies do as they
come, which includes what they prefer, the client offers every cipher of its library in the library's order.
"""

from __future__ import annotations

import errno
from typing import Any

from OpenSSL import SSL

_lib: Any = SSL._lib  # type: ignore[attr-defined]
_ffi: Any = SSL._ffi  # type: ignore[attr-defined]

WANT_READ = 2
WANT_WRITE = 3
SYSCALL = 5
ZERO_RETURN = 6
_MODE_RELEASE_BUFFERS = 0x10

_CIPHERS_12 = b"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
_CIPHERS_13 = b"TLS_AES_256_GCM_SHA384"
_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}

new_connection = _lib.SSL_new
free_connection = _lib.SSL_free
set_descriptor = _lib.SSL_set_fd
set_client = _lib.SSL_set_connect_state
set_server_name = _lib.SSL_set_tlsext_host_name
handshake = _lib.SSL_do_handshake
read = _lib.SSL_read
write = _lib.SSL_write
get_error = _lib.SSL_get_error
shutdown = _lib.SSL_shutdown
get_session = _lib.SSL_get1_session
set_session = _lib.SSL_set_session
free_session = _lib.SSL_SESSION_free
session_reused = _lib.SSL_session_reused
clear_errors = _lib.ERR_clear_error
NULL = _ffi.NULL


class ClientContext:
    """An OpenSSL client context for one protocol version; `.raw` is what `new_connection` takes."""

    def __init__(self, version: str, *, pinned: bool = True) -> None:
        """`version` is "1.2" or "1.3"; no other is offered. `pinned`: only one cipher is."""
        self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self._context.set_min_proto_version(_VERSIONS[version])
        self._context.set_max_proto_version(_VERSIONS[version])
        self._context.set_verify(SSL.VERIFY_NONE)
        self._context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        self.raw = self._context._context
        _lib.SSL_CTX_set_mode(self.raw, _MODE_RELEASE_BUFFERS)
        if _lib.SSL_CTX_set1_curves_list(self.raw, b"X25519:P-256") != 1 or (
            pinned
            and (
                _lib.SSL_CTX_set_cipher_list(self.raw, _CIPHERS_12) != 1
                or _lib.SSL_CTX_set_ciphersuites(self.raw, _CIPHERS_13) != 1
            )
        ):
            raise RuntimeError("this OpenSSL does not offer X25519 with AES-256-GCM")


def buffer(size: int) -> Any:
    """Return a C buffer to read into."""
    return _ffi.new("char[]", size)


def view(data: bytes) -> Any:
    """Return the C address of some bytes, which must outlive it."""
    return _ffi.from_buffer(data)


def bytes_of(buf: Any, start: int, end: int) -> memoryview:
    """Return part of a C buffer as a memoryview, without a copy."""
    return memoryview(_ffi.buffer(buf))[start:end]


def negotiated(connection: Any) -> str:
    """Return what was agreed on, such as ``TLSv1.3 TLS_AES_256_GCM_SHA384 X25519``, to compare two sides."""
    cipher = _lib.SSL_get_current_cipher(connection)
    name = _ffi.string(_lib.SSL_CIPHER_get_name(cipher)).decode() if cipher != NULL else "none"
    return f"{_ffi.string(_lib.SSL_get_version(connection)).decode()} {name}"


def _last_error() -> str:
    """Return and clear OpenSSL's error queue as one line."""
    reasons = []
    while code := _lib.ERR_get_error():
        reasons.append(_ffi.string(_lib.ERR_reason_error_string(code) or _ffi.new("char[]", b"?")).decode())
    return ", ".join(reasons) or "no reason given"


def failure(error: int) -> str:
    """Return why a call failed, in a word or line, from what `get_error` said of it."""
    if error == ZERO_RETURN:
        return "close_notify"
    if error == SYSCALL:
        code = int(_ffi.errno)
        clear_errors()
        return errno.errorcode.get(code, "end of file")  # 0 stands for an end of file without close_notify
    return _last_error()
