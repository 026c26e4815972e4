"""When which acceptor checks an upstream.

If every acceptor checked every upstream, each would be checked by as many as there are CPUs. So they share: what one
has found out holds for all (:mod:`symphony.routing.upstream`), and an upstream is due for an acceptor only when nobody
has checked it lately. Each acceptor has a rank of its own for each upstream, and waits a little longer the higher it
is: the one of rank 0 checks, and should it be gone or stuck, the next one does, with nobody having to tell.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

from symphony.config.model import HealthCheck, SourceAddressHeader, TcpUpstream, Upstream
from symphony.relay.proxy_protocol import encode_local, encode_v1
from symphony.routing.upstream import UpstreamRecord, UpstreamSlot

_SLACK_MS = 200
_SPREAD_FIRST_MS = 1000


class CheckTarget(NamedTuple):
    """An upstream that is checked.

    `server_name` is sent in a TLS handshake, "" for none, and `header` in front of everything.
    """

    upstream: Upstream
    record: UpstreamRecord
    settings: HealthCheck
    server_name: str
    header: bytes = b""


# An upstream that expects a header refuses whoever sends none. These name no client: the proxy speaks for itself.
_OWN_HEADERS = {"proxy_protocol": encode_v1(None, None), "proxy_protocol_v2": encode_local()}


def check_target(
    route: str, slot: UpstreamSlot, settings: HealthCheck, source_address_header: SourceAddressHeader = "none"
) -> CheckTarget:
    """How to check an upstream of the route `route`, which tells its upstreams of clients in that way."""
    header = _OWN_HEADERS.get(source_address_header, b"")
    return CheckTarget(slot.upstream, slot.record, settings, _server_name(route, slot.upstream), header)


def _server_name(route: str, upstream: Upstream) -> str:
    if route and not route.startswith("*."):
        return route
    if not isinstance(upstream, TcpUpstream):
        return ""
    try:
        ip_address(upstream.host)
    except ValueError:
        return upstream.host
    return ""


class Turn(NamedTuple):
    """Whether this acceptor is to check now, and if not, when to look again (milliseconds)."""

    now: bool
    again_at: int


class Shifts:
    """The turns of acceptor `index` of `acceptors`."""

    __slots__ = ("_acceptors", "_index")

    def __init__(self, index: int, acceptors: int) -> None:
        self._index = index
        self._acceptors = max(1, acceptors)

    def first(self, target: CheckTarget, now: int) -> int:
        """When to look at a target for the first time: not at all of them at once."""
        spread = min(_SPREAD_FIRST_MS, target.settings.interval_ms)
        return now + max(0, target.record.number) * 137 % spread + self._patience(target)

    def turn(self, target: CheckTarget, now: int) -> Turn:
        """Whether it is this acceptor's turn with a target that it looks at now."""
        begun, ended = target.record.last_check()
        settings = target.settings
        limit = begun + settings.timeout_ms + _SLACK_MS
        if begun > ended and now < limit:  # another one is at it
            return Turn(False, limit + self._patience(target))
        again_at = self.next(target, ended)
        return Turn(now >= again_at, again_at)

    def next(self, target: CheckTarget, ended: int) -> int:
        """When to look again after a check that ended at `ended`."""
        return ended + target.settings.interval_ms + self._patience(target)

    def _patience(self, target: CheckTarget) -> int:
        rank = (self._index - target.record.number) % self._acceptors
        step = min(_SLACK_MS, target.settings.interval_ms // (2 * self._acceptors))
        return _SLACK_MS + rank * step if rank else 0
