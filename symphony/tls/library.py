"""The one module that knows the OpenSSL library behind pyOpenSSL.

Everything that happens once per process or per context goes through pyOpenSSL's public interface
(:mod:`symphony.tls.context`). What happens per connection or per read is called here directly, because the public
wrappers cost more than the work: an ``SSL.Connection`` takes 12 us to make against 4 us for ``SSL_new``, and each
``recv`` or ``send`` that would block raises an exception.

The rules that a caller of the raw functions keeps:

* An ``SSL`` pointer made by :func:`new_server_session` is freed exactly once, by :func:`free`, and never used after.
* After a call that returned <= 0, :func:`outcome` tells why, before any other OpenSSL call in this process. It leaves
  the error queue empty. The queue is per thread and shared by all connections: one left-over entry would be read
  as the failure of some innocent connection.
* A write that would block (``WANT_WRITE``) is repeated with the same bytes, all of them: partial writes are off,
  because they cost 8 % on bulk (:mod:`symphony.tls.context`).
* No call passes a buffer longer than 2**31 - 1.
"""

from __future__ import annotations

import errno
from typing import Any, Final

from OpenSSL import SSL
from OpenSSL._util import ffi as _ffi  # type: ignore[attr-defined,unused-ignore]
from OpenSSL._util import lib as _lib  # type: ignore[attr-defined,unused-ignore]

ffi: Final[Any] = _ffi
_library: Final[Any] = _lib

ssl_read = _library.SSL_read
ssl_write = _library.SSL_write
ssl_shutdown = _library.SSL_shutdown
do_handshake = _library.SSL_do_handshake
pending = _library.SSL_pending
free = _library.SSL_free

# What outcome() returns. The numbers are OpenSSL's where it has them.
WANT_READ: Final[int] = int(_library.SSL_ERROR_WANT_READ)
WANT_WRITE: Final[int] = int(_library.SSL_ERROR_WANT_WRITE)
ENDED: Final[int] = int(_library.SSL_ERROR_ZERO_RETURN)
"""The peer has sent close_notify, or has closed its side without one (:mod:`symphony.tls.context`)."""
BROKEN: Final[int] = int(_library.SSL_ERROR_SYSCALL)
"""The connection below was reset or has failed."""
FAILED: Final[int] = int(_library.SSL_ERROR_SSL)
"""A protocol error; OpenSSL has sent its alert. :func:`last_error` has the reason."""

MAX_PLAINTEXT: Final[int] = 16384
"""The most that one TLS record carries (RFC 8446 section 5.1), and so the most that one ``SSL_read`` returns."""

VERIFY_NONE: Final[int] = int(_library.SSL_VERIFY_NONE)
VERIFY_OPTIONAL: Final[int] = int(_library.SSL_VERIFY_PEER)
VERIFY_REQUIRED: Final[int] = int(_library.SSL_VERIFY_PEER | _library.SSL_VERIFY_FAIL_IF_NO_PEER_CERT)

_get_error = _library.SSL_get_error
_clear_errors = _library.ERR_clear_error
_new = _library.SSL_new
_set_fd = _library.SSL_set_fd
_set_context = _library.SSL_set_SSL_CTX
_set_verify = _library.SSL_set_verify
_set_accept_state = _library.SSL_set_accept_state
_NULL = _ffi.NULL

_last_error = ""


def pointer(context: SSL.Context) -> Any:
    """The ``SSL_CTX`` of a pyOpenSSL context; valid while the context object lives."""
    return context._context


def disable_partial_writes(context: SSL.Context) -> None:
    """Clear SSL_MODE_ENABLE_PARTIAL_WRITE, which pyOpenSSL sets on every context."""
    _library.SSL_CTX_clear_mode(context._context, _library.SSL_MODE_ENABLE_PARTIAL_WRITE)


def new_server_session(base: Any, context: Any, verify: int, descriptor: int) -> Any:
    """Make the server side of a connection on a socket's descriptor.

    `base` and `context` are pointers: the session is created from the first, so that its tickets are sealed with
    the keys that all acceptors share, and switched to the second, which has the certificate. The switch takes over
    certificate, ALPN callback, trust store and session id context, but not the verify mode: hence `verify`.

    The descriptor stays the caller's: freeing the session does not close it. Raises MemoryError.
    """
    _clear_errors()
    session = _new(base)
    if session == _NULL:
        raise MemoryError("SSL_new failed")
    if not _set_fd(session, descriptor) or _set_context(session, context) == _NULL:
        free(session)
        raise MemoryError("setting up a TLS session failed")
    if verify:
        _set_verify(session, verify, _NULL)
    _set_accept_state(session)
    return session


def outcome(session: Any, returned: int) -> int:
    """Tell why a call returned `returned` <= 0: WANT_READ, WANT_WRITE, ENDED, BROKEN or FAILED."""
    global _last_error
    error = _get_error(session, returned)
    if error == FAILED:
        _last_error = _drain_errors()
    elif error == BROKEN:
        code = _ffi.errno
        _last_error = errno.errorcode.get(code, str(code)) if code else "EOF"
        _clear_errors()
    return int(error)


def last_error() -> str:
    """The reason of the latest BROKEN or FAILED, such as ``no shared cipher`` or ``ECONNRESET``."""
    return _last_error


def discard_errors() -> None:
    """Empty the error queue, after calls whose failure does not matter."""
    _clear_errors()


def _drain_errors() -> str:
    first = _library.ERR_get_error()
    text = _library.ERR_reason_error_string(first) if first else _NULL
    _clear_errors()
    if text == _NULL:
        return f"error {first:#x}"
    return bytes(_ffi.string(text)).decode("ascii", "replace")


def is_resumed(session: Any) -> bool:
    """Whether the finished handshake took up an earlier session."""
    return bool(_library.SSL_session_reused(session))


_suite_names: dict[Any, str] = {}


def cipher_suite(session: Any) -> str:
    """OpenSSL's name of the cipher suite of a finished handshake."""
    cipher = _library.SSL_get_current_cipher(session)
    name = _suite_names.get(cipher)
    if name is None:  # one for each that is offered: they are static in the library
        name = _suite_names[cipher] = _ffi.string(_library.SSL_CIPHER_get_name(cipher)).decode("ascii")
    return name


def negotiated(session: Any) -> tuple[bytes, bytes, bytes]:
    """The version (``TLSv1.3``), cipher and ALPN protocol (empty for none) of a finished handshake."""
    version: bytes = _ffi.string(_library.SSL_get_version(session))
    cipher: bytes = _ffi.string(_library.SSL_CIPHER_get_name(_library.SSL_get_current_cipher(session)))
    _library.SSL_get0_alpn_selected(session, _out_data, _out_length)
    protocol: bytes = _ffi.buffer(_out_data[0], _out_length[0])[:] if _out_length[0] else b""
    return version, cipher, protocol


def is_http2(session: Any) -> bool:
    """Whether a finished handshake has agreed on HTTP/2 by ALPN (RFC 7301, RFC 9113 section 3.2)."""
    _library.SSL_get0_alpn_selected(session, _out_data, _out_length)
    return bool(_out_length[0] == 2 and _ffi.buffer(_out_data[0], 2)[:] == b"h2")


def client_certificates(session: Any) -> tuple[list[bytes], bytes]:
    """The certificates that the client sent, in DER and leaf first, and the leaf's common name.

    None at all when it sent none. A resumed session has the leaf only: tickets do not carry the others. The common
    name is UTF-8, the first when there are several, and empty when there is none. Raises MemoryError.
    """
    leaf = _library.SSL_get_peer_certificate(session)
    if leaf == _NULL:
        return [], b""
    try:
        certificates = [_der(leaf)]
        common_name = _common_name(leaf)
    finally:
        _library.X509_free(leaf)
    # On the server's side the leaf is not among these; they stay the session's.
    others = _library.SSL_get_peer_cert_chain(session)
    if others != _NULL:
        certificates += [
            _der(_library.sk_X509_value(others, at)) for at in range(_library.sk_X509_num(others))
        ]
    return certificates, common_name


def is_verified(session: Any) -> bool:
    """Whether the client's certificate was found good, now or when the session that is resumed was made."""
    return bool(_library.SSL_get_verify_result(session) == _library.X509_V_OK)


def _der(certificate: Any) -> bytes:
    memory = _library.BIO_new(_library.BIO_s_mem())
    if memory == _NULL or not _library.i2d_X509_bio(memory, certificate):
        _library.BIO_free(memory)
        _clear_errors()
        raise MemoryError("writing a certificate failed")
    size = _library.BIO_get_mem_data(memory, _out_memory)
    found: bytes = _ffi.buffer(_out_memory[0], size)[:]
    _library.BIO_free(memory)
    return found


def _common_name(certificate: Any) -> bytes:
    subject = _library.X509_get_subject_name(certificate)
    at = _library.X509_NAME_get_index_by_NID(subject, _NID_COMMON_NAME, -1)
    if at < 0:
        return b""
    text = _library.X509_NAME_ENTRY_get_data(_library.X509_NAME_get_entry(subject, at))
    size = _library.ASN1_STRING_to_UTF8(_out_text, text)
    if size < 0:
        _clear_errors()
        return b""
    found: bytes = _ffi.buffer(_out_text[0], size)[:]
    _library.OPENSSL_free(_out_text[0])
    return found


# Where OpenSSL writes what it hands out by pointer; read at once, so one of each does for the process.
_out_data = _ffi.new("const unsigned char **")
_out_length = _ffi.new("unsigned int *")
_out_memory = _ffi.new("char **")
_out_text = _ffi.new("unsigned char **")
_NID_COMMON_NAME: Final[int] = 13  # NID_commonName of openssl/obj_mac.h, which pyOpenSSL does not name

_ALPN_HTTP11 = (b"http/1.1",)
_ALPN_HTTP2 = (b"h2", b"http/1.1")


def _alpn_callback(offer: tuple[bytes, ...]) -> Any:
    """A selection callback for `offer` in the server's order of preference (RFC 7301 section 3.2).

    pyOpenSSL's own callback looks its ``Connection`` object up and so works only on connections that it has made.
    A client that shares no protocol gets none, not an alert: a client that speaks another protocol inside TLS
    would otherwise be refused on a route that never mentioned HTTP.
    """

    def select(_session: Any, out: Any, out_length: Any, offered: Any, length: int, _argument: Any) -> int:
        wire = _ffi.buffer(offered, length)[:]
        positions: dict[bytes, int] = {}
        at = 0
        while at < length:
            size = wire[at]
            positions.setdefault(wire[at + 1 : at + 1 + size], at + 1)
            at += 1 + size
        for protocol in offer:
            found = positions.get(protocol)
            if found is not None:
                out[0] = offered + found
                out_length[0] = len(protocol)
                return int(_library.SSL_TLSEXT_ERR_OK)
        return int(_library.SSL_TLSEXT_ERR_NOACK)

    signature = (
        "int (*)(SSL *, unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *)"
    )
    return _ffi.callback(signature, select, error=_library.SSL_TLSEXT_ERR_NOACK)


# Kept here for as long as the process lives: OpenSSL holds their addresses.
_select_http11 = _alpn_callback(_ALPN_HTTP11)
_select_http2 = _alpn_callback(_ALPN_HTTP2)


def offer_alpn(context: SSL.Context, http2: bool) -> None:
    """Select ``h2`` then ``http/1.1``, or ``http/1.1`` only, from what a client offers by ALPN."""
    _library.SSL_CTX_set_alpn_select_cb(context._context, _select_http2 if http2 else _select_http11, _NULL)


class TransferBuffer:
    """The memory through which a process moves bytes: one per process, used within one callback only.

    Nothing may stay in it when a callback returns: the next connection writes over it.
    """

    __slots__ = ("c", "iov", "size", "view")

    def __init__(self, size: int) -> None:
        memory = bytearray(size)
        self.size = size
        self.view = memoryview(memory)
        self.iov = [self.view]
        self.c: Any = _ffi.from_buffer(memory)
