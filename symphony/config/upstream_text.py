"""Upstreams as one word: ``tcp://host:port`` and ``unix:/path``, the form in which logs name them."""

from __future__ import annotations

from symphony.config.check import check_upstream
from symphony.config.model import TcpUpstream, UdsUpstream, Upstream
from symphony.config.problem import Problem
from symphony.config.wording import quoted

_EXPECTED = "expected tcp://HOST:PORT or unix:/PATH"


class UpstreamTextError(ValueError):
    """A text that names no upstream; the text says why."""


def parse_upstream(text: str, directory: str) -> Upstream:
    """Read what :attr:`TcpUpstream.label` and :attr:`UdsUpstream.label` write.

    An IPv6 address stands in brackets; a relative path is taken from `directory`. Raises :class:`UpstreamTextError`.
    """
    upstream: Upstream
    if text.startswith("unix:"):
        upstream = UdsUpstream(path=text.removeprefix("unix:"))
    elif text.startswith("tcp://"):
        host, colon, port = text.removeprefix("tcp://").rpartition(":")
        if not colon or not host:
            raise UpstreamTextError(f"{quoted(text)} has no port: {_EXPECTED}")
        if not (port.isascii() and port.isdigit() and 1 <= len(port) <= 5 and 1 <= int(port) <= 65535):
            raise UpstreamTextError(
                f"{quoted(text)} has {quoted(port)} for a port: expected one from 1 to 65535"
            )
        bracketed = host.startswith("[") and host.endswith("]")
        if (":" in host) != bracketed:
            raise UpstreamTextError(
                f"{quoted(text)}: expected an IPv6 address, and nothing else, in brackets, as in tcp://[::1]:80"
            )
        upstream = TcpUpstream(host=host[1:-1] if bracketed else host, port=int(port))
    else:
        raise UpstreamTextError(f"{quoted(text)} is no upstream: {_EXPECTED}")
    problems: list[Problem] = []
    found = check_upstream(upstream, "", directory, problems)
    if problems:
        raise UpstreamTextError(f"{quoted(text)}: {problems[0].text}")
    return found
