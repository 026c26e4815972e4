"""What a plain HTTP listener does with the requests of one connection. Bytes in, decisions out; no sockets.

Every request is answered by a redirect to ``https://``, but for those under ``/.well-known/acme-challenge/``, which
an authority sends to see who owns a name (RFC 8555 section 8.3): these go to the upstream of the name's route, with a
head that is written anew. So nothing that could be read in two ways ever reaches an upstream, and what follows a
request in the client's bytes never does.

h11 parses. A connection goes on behind redirects alone (keep-alive, pipelining); it ends behind every refusal, behind
a request with a body, which is not read, and behind a challenge.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple

import h11

from symphony.http.authority import Authority, parse_authority
from symphony.observe.reasons import Reason

MAX_HEAD = 16 * 1024
"""Bytes of a request line with its fields."""
MAX_REQUESTS = 1000
"""Requests that one connection may make."""
HTTPS_PORT = 443

# Segments of unreserved characters, none of them "." or "..": two readers cannot take such a path for two things, and
# no part of a service but this folder can be reached by it. Tokens are base64url (RFC 8555 section 8.3).
_CHALLENGE = re.compile(
    rb"/\.well-known/acme-challenge(?:/(?!\.{1,2}(?:[/?]|\Z))[A-Za-z0-9._~-]*+)++(?:\?[A-Za-z0-9._~&=+-]*+)?"
)
_ABSOLUTE = re.compile(rb"(?i)https?://([^/?]*+)(.*+)")
_PLAIN_FIELD_NAME = re.compile(rb"[A-Za-z0-9-]++")
_TLS_HANDSHAKE = b"\x16"
_SAFE_METHODS = (b"GET", b"HEAD")
# What is about one connection (RFC 9110 section 7.6.1) or about a body, and what names the client, which it must not
# do itself.
_NOT_PASSED_ON = frozenset(
    b"connection|content-length|expect|host|keep-alive|proxy-authenticate|proxy-authorization|proxy-connection|te"
    b"|trailer|transfer-encoding|upgrade|forwarded|x-forwarded-for|x-forwarded-host|x-forwarded-port"
    b"|x-forwarded-proto|x-real-ip|x-ja3|x-ja4".split(b"|")
)
_DETAIL_LIMIT = 200


class Answer(NamedTuple):
    """Bytes to send. `close`: nothing is sent behind them. `reason` says why a request was refused."""

    data: bytes
    close: bool
    reason: Reason | None = None
    detail: str = ""


class Challenge(NamedTuple):
    """A request for an upstream of the route that `name` leads to (None: of the default route).

    It is answered by what the upstream answers, or by :meth:`RequestFront.refuse`.
    """

    name: bytes | None
    request: h11.Request


class Ended(NamedTuple):
    """The client has ended the connection in order: before its first request or behind a whole one."""


Decision = Answer | Challenge | Ended


class _Refusal(Exception):
    """A request that is answered by an error, which ends the connection."""

    def __init__(self, status: HTTPStatus, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason


class RequestFront:
    """The requests of one connection: fed by :meth:`receive`, decided on by :meth:`next`."""

    __slots__ = (
        "_clock",
        "_ended",
        "_fed",
        "_first",
        "_http",
        "_method",
        "_port",
        "_requests",
        "last",
        "over",
        "partial",
    )

    def __init__(self, redirect_port: int, clock: Callable[[], float] = time.time) -> None:
        """`redirect_port` is where clients find TLS; `clock` says the time for Date fields."""
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD - 1)
        self._port = b"" if redirect_port == HTTPS_PORT else b":%d" % redirect_port
        self._clock = clock
        self._first = b""
        self._method = b""
        self._fed = 0
        self._requests = 0
        self._ended = False
        self.last = False
        """May be set from outside: the connection ends behind the next answer."""
        self.over = False
        """Whether no request is taken any more."""
        self.partial = False
        """Whether the beginning of a request is here, and not yet the rest of it."""

    def receive(self, data: bytes) -> None:
        """Take what the client has sent; nothing stands for the end of its stream."""
        if data:
            self._first = self._first or data[:1]
            self._fed += len(data)
        else:
            self._ended = True
        self._http.receive_data(data)

    def next(self) -> Decision | None:
        """The next thing to do, None when there is nothing more to do with what has been received."""
        if self.over:
            return None
        try:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                return self._decide(event)
        except h11.RemoteProtocolError as error:
            return self._refused(self._diagnose(error))
        except _Refusal as refusal:
            return self._refused(refusal)
        if isinstance(event, h11.ConnectionClosed):
            self.over = True
            return Ended()
        if not self.partial:
            self.partial = bool(self._http.trailing_data[0])
        return None

    def refuse(self, status: HTTPStatus, reason: Reason, detail: str) -> Answer:
        """The answer to a challenge that no upstream answers, or to a request that never became whole.

        `detail` is for the log alone.
        """
        return self._refused(_Refusal(status, reason, detail), told="")

    # Requests

    def _decide(self, request: h11.Request) -> Decision:
        self._requests += 1
        self._method = request.method
        self.partial = False
        rest = len(self._http.trailing_data[0])
        length, self._fed = self._fed - rest, rest
        if length > MAX_HEAD:  # h11 looks at the length of unfinished heads alone
            raise _too_long(length)
        if not request.http_version.startswith(b"1."):
            version = request.http_version.decode("ascii")
            text = f"HTTP/{version}; this port speaks HTTP/1.1, and TLS is on another"
            # A client that begins with HTTP/2 does not know of answers in HTTP/1.1 to its version.
            preface = request.method == b"PRI" and request.target == b"*"
            status = HTTPStatus.BAD_REQUEST if preface else HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
            raise _Refusal(status, Reason.HTTP_VERSION, text)
        authority, path = _destination(request)
        has_body = any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
            for name, value in request.headers
        )
        if _CHALLENGE.fullmatch(path):
            _check_challenge(request.method, has_body)
            self._http.next_event()  # the end of the request, which has no body
            self.over = True
            return Challenge(authority.name, _for_upstream(request, authority, path))
        location = b"https://" + authority.host.encode("ascii") + self._port + path
        safe = request.method in _SAFE_METHODS
        status = HTTPStatus.MOVED_PERMANENTLY if safe else HTTPStatus.PERMANENT_REDIRECT
        close = has_body or self.last or self._requests >= MAX_REQUESTS
        if not has_body:
            self._http.next_event()
        return self._answer(status, [(b"Location", location)], b"", close)

    def _diagnose(self, error: h11.RemoteProtocolError) -> _Refusal:
        text = str(error)[:_DETAIL_LIMIT]
        if error.error_status_hint == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            return _too_long(self._fed)
        if self._first == _TLS_HANDSHAKE and not self._requests:
            text = "a TLS handshake; this port speaks plain HTTP, and TLS is on another"
            return _Refusal(HTTPStatus.BAD_REQUEST, Reason.TLS_ON_PLAIN_PORT, text)
        if text.startswith("Missing mandatory Host"):
            return _Refusal(HTTPStatus.BAD_REQUEST, Reason.HTTP_NO_HOST, text)
        if self._ended:
            return _Refusal(HTTPStatus.BAD_REQUEST, Reason.HTTP_ABANDONED, text)
        return _Refusal(HTTPStatus(error.error_status_hint), Reason.HTTP_MALFORMED, text)

    # Answers

    def _refused(self, refusal: _Refusal, told: str | None = None) -> Answer:
        status = refusal.status
        detail = str(refusal)
        fields = [(b"Content-Type", b"text/plain; charset=utf-8")]
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            fields.append((b"Allow", b"GET, HEAD"))
        told = detail if told is None else told
        text = f"{status.value} {status.phrase}: {told}\n" if told else f"{status.value} {status.phrase}\n"
        data = self._answer(status, fields, text.encode(), True).data
        return Answer(data, True, refusal.reason, detail)

    def _answer(
        self, status: HTTPStatus, fields: list[tuple[bytes, bytes]], body: bytes, close: bool
    ) -> Answer:
        http = self._http
        headers = [(b"Date", formatdate(self._clock(), usegmt=True).encode("ascii")), *fields]
        headers.append((b"Content-Length", b"%d" % len(body)))
        if close:
            headers.append((b"Connection", b"close"))
        reason = status.phrase.encode("ascii")
        parts = [http.send(h11.Response(status_code=status.value, reason=reason, headers=headers))]
        if self._method != b"HEAD":
            parts.append(http.send(h11.Data(data=body)))
        parts.append(http.send(h11.EndOfMessage()))
        self._method = b""
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
        else:  # told to close, HTTP/1.0, or a body that is not read
            self.over = True
        return Answer(b"".join(parts), self.over)


def _too_long(length: int) -> _Refusal:
    text = f"a request line and fields of {length} bytes or more; at most {MAX_HEAD} are taken"
    return _Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, Reason.HTTP_HEAD_TOO_LONG, text)


def _destination(request: h11.Request) -> tuple[Authority, bytes]:
    """Whom a request is for, and the path with the query (RFC 9112 section 3.2)."""
    target = request.target
    found = _ABSOLUTE.fullmatch(target)
    if b"#" in target or not (found or target.startswith(b"/") or target == b"*"):
        text = "the target is neither a path nor an http URL"
        raise _Refusal(HTTPStatus.BAD_REQUEST, Reason.HTTP_MALFORMED, text)
    # h11 has seen to it that there is at most one Host, and one at least in HTTP/1.1.
    host = next((value for name, value in request.headers if name == b"host"), b"")
    if found:  # then Host says nothing, whatever it says
        host, path = found[1], found[2]
        path = path if path.startswith(b"/") else b"/" + path
    else:
        path = b"/" if target == b"*" else target
    if not host:
        raise _Refusal(HTTPStatus.BAD_REQUEST, Reason.HTTP_NO_HOST, "no Host")
    authority = parse_authority(host)
    if authority is None:
        text = "the host is neither a name nor an address, with or without a port"
        raise _Refusal(HTTPStatus.BAD_REQUEST, Reason.HTTP_BAD_HOST, text)
    return authority, path


def _check_challenge(method: bytes, has_body: bool) -> None:
    if method not in _SAFE_METHODS:
        text = "a challenge is asked for by GET"
        raise _Refusal(HTTPStatus.METHOD_NOT_ALLOWED, Reason.CHALLENGE_REFUSED, text)
    if has_body:
        text = "a challenge is asked for without content"
        raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, Reason.CHALLENGE_REFUSED, text)


def _for_upstream(request: h11.Request, authority: Authority, path: bytes) -> h11.Request:
    """The request as it is sent on, on a connection of its own."""
    named = {
        option.strip().lower()
        for name, value in request.headers
        if name == b"connection"
        for option in value.split(b",")
    }
    headers = [(b"Host", authority.render())]
    headers += [
        (name, value)
        for name, value in request.headers.raw_items()
        if name.lower() not in _NOT_PASSED_ON
        and name.lower() not in named
        and _PLAIN_FIELD_NAME.fullmatch(name)  # X_Real-IP is X-Real-IP to some
    ]
    headers.append((b"Connection", b"close"))
    return h11.Request(method=request.method, target=path, headers=headers)
