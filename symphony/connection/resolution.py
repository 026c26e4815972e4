"""What becomes of a held connection once somebody says so: checked, given its TLS context, and let go.

Whoever resolves has checked what it sends; here it is checked again, because a route with a bad certificate must cost
the one who sent it an answer, and not the acceptor a connection.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Awaitable, Iterable
from datetime import UTC, datetime

from OpenSSL import SSL

from symphony.config.check import check_upstream
from symphony.config.check_identity import FINGERPRINT_CARRIERS
from symphony.config.model import UdsUpstream, Upstream
from symphony.config.problem import Problem, Severity
from symphony.config.snapshot import ClientAuthority, Identity, TlsPolicy
from symphony.connection.held import FORWARDED, Held, HoldTable
from symphony.mailbox.envelope import Refused
from symphony.messages.held import HeldResolved, HeldRoute, ResolveHeld
from symphony.observe.reasons import Reason
from symphony.routing.plan import HTTP2, PlannedRoute
from symphony.routing.pool import UpstreamPool
from symphony.tls.context import RouteContext
from symphony.tls.identity import examine_identity

CONTEXTS_KEPT = 64
"""TLS contexts of certificates that came with resolutions, the latest used: many connections come with the same one."""

Answer = HeldResolved | Refused

_UNKNOWN = HeldResolved("unknown")


class _NotUsable(Exception):
    """Why a resolution cannot be carried out."""


class Resolutions:
    """Carries out resolutions for one acceptor, on the connections in `table`, to upstreams from `pool`."""

    def __init__(self, table: HoldTable, pool: UpstreamPool) -> None:
        self._table = table
        self._pool = pool
        self._contexts: OrderedDict[TlsPolicy, RouteContext] = OrderedDict()
        self._building = asyncio.Lock()

    def resolve(self, message: ResolveHeld) -> Answer | Awaitable[Answer]:
        """Carry `message` out, at once but where a certificate comes with it."""
        held = self._table.find(message.id)
        if held is None:
            return _UNKNOWN
        if message.route is None:
            held.connection.abort(Reason.REJECTED)
            return HeldResolved("rejected")
        try:
            return self._forward(held, message.route)
        except _NotUsable as error:
            return Refused(str(error))

    def _forward(self, held: Held, wanted: HeldRoute) -> Answer | Awaitable[Answer]:
        upstreams = _checked(wanted.upstreams)
        if not upstreams and not held.route.balancer.slots:
            raise _NotUsable("no upstream is given, and the suspended route has none of its own")
        terminate = wanted.terminate_tls
        if terminate is None:
            terminate = held.route.terminate_tls or wanted.identity is not None
        route = held.route.resolved(terminate, wanted.source_address_header, wanted.forward_fingerprint)
        _check_header(route)
        if not terminate:
            if wanted.identity is not None or wanted.http2 or wanted.authority is not None:
                raise _NotUsable(
                    "a certificate, client certificates or http2 mean nothing for a connection that is passed through"
                )
            return self._release(held, route, upstreams, None)
        policy, identity, authority = _tls(held, wanted)
        if route.rewrites_http and policy.http2:
            raise _NotUsable("the route's x_forwarded_for cannot be set on HTTP/2 requests")
        context = self._known(held, policy)
        if context is None:
            return self._forward_with(held, route, upstreams, policy, identity, authority)
        return self._release(held, route, upstreams, context)

    async def _forward_with(
        self,
        held: Held,
        route: PlannedRoute,
        upstreams: tuple[Upstream, ...],
        policy: TlsPolicy,
        identity: Identity,
        authority: ClientAuthority | None,
    ) -> Answer:
        """Make the context first, one at a time and in a thread: an RSA key takes milliseconds to be tried."""
        async with self._building:
            context = self._known(held, policy)
            if context is None:
                try:
                    context = await asyncio.to_thread(_build, policy, identity, authority)
                except _NotUsable as error:
                    return Refused(str(error))
                self._contexts[policy] = context
                if len(self._contexts) > CONTEXTS_KEPT:
                    self._contexts.popitem(last=False)
        if self._table.find(held.connection.id) is not held:
            return _UNKNOWN  # left, expired or resolved by somebody else meanwhile
        return self._release(held, route, upstreams, context)

    def _known(self, held: Held, policy: TlsPolicy) -> RouteContext | None:
        own = held.suspension.tls[held.column]
        if own is not None and own.policy == policy:
            context = held.route.contexts[held.column]
            if context is not None:
                return context
        context = self._contexts.get(policy)
        if context is not None:
            self._contexts.move_to_end(policy)
        return context

    def _release(
        self, held: Held, route: PlannedRoute, upstreams: tuple[Upstream, ...], context: RouteContext | None
    ) -> Answer:
        if upstreams:
            marked = [upstream for upstream in upstreams if upstream.protocol == HTTP2]
            others = [upstream for upstream in upstreams if upstream.protocol != HTTP2]
            route.balancer = self._pool.balancer(others)
            route.http2_balancer = self._pool.balancer(marked) if marked else None
        self._table.forward(held, route, context)
        return HeldResolved(FORWARDED)


def _checked(upstreams: Iterable[Upstream]) -> tuple[Upstream, ...]:
    """`upstreams` in normal form."""
    problems: list[Problem] = []
    found = tuple(
        check_upstream(upstream, f"upstreams[{at}]", "", problems) for at, upstream in enumerate(upstreams)
    )
    for at, upstream in enumerate(found):
        if isinstance(upstream, UdsUpstream) and not os.path.isabs(upstream.path):
            # Whoever sent it and the acceptor need not have the same working directory.
            problems.append(Problem(f"upstreams[{at}].path", "is relative: expected an absolute path"))
    if problems:
        raise _NotUsable(f"{problems[0].place}: {problems[0].text}")
    if found and all(upstream.protocol == HTTP2 for upstream in found):
        raise _NotUsable('all upstreams have protocol = "h2": one has to be for clients without HTTP/2')
    return found


def _check_header(route: PlannedRoute) -> None:
    if route.rewrites_http and not route.terminate_tls:
        raise _NotUsable("the route's x_forwarded_for cannot be set on a connection that is passed through")
    if (
        route.forward_fingerprint
        and not route.rewrites_http
        and route.proxy_header not in FINGERPRINT_CARRIERS
    ):
        raise _NotUsable(
            "there is no place for a fingerprint: it takes source_address_header = proxy_protocol_v2 or x_forwarded_for"
        )


def _tls(held: Held, wanted: HeldRoute) -> tuple[TlsPolicy, Identity, ClientAuthority | None]:
    column = held.column
    own = held.suspension.tls[column] if 0 <= column < len(held.suspension.tls) else None
    if own is None:
        # Nobody knows whether clients need a certificate on such a listener, so it must not be open.
        raise _NotUsable(f"the route is not served with TLS on {held.listener}")
    identity = own.identity if wanted.identity is None else wanted.identity
    if identity is None:
        raise _NotUsable(
            "there is no certificate: give one, since neither the route nor its listener has any"
        )
    policy = TlsPolicy(
        own.policy.identity if wanted.identity is None else identity.digest,
        own.policy.client_authority if wanted.authority is None else wanted.authority.digest,
        own.policy.http2 if wanted.http2 is None else wanted.http2,
    )
    return policy, identity, own.authority if wanted.authority is None else wanted.authority


def _build(policy: TlsPolicy, identity: Identity, authority: ClientAuthority | None) -> RouteContext:
    for finding in examine_identity(identity.chain_pem, identity.key_pem, datetime.now(UTC)):
        if finding.severity is Severity.ERROR:
            raise _NotUsable(f"the {finding.part.value} {finding.text}")
    try:
        return RouteContext(policy, identity, authority)
    except (ValueError, TypeError, SSL.Error):
        raise _NotUsable(
            "OpenSSL does not take the certificate, its key, or the clients' authorities"
        ) from None
