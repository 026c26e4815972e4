"""How the upstreams of a running instance fare, as any one of its acceptors can tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from symphony.api.applied import wait_applied
from symphony.api.names import REGISTRY
from symphony.config.model import UpstreamMode
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxClient, MailboxError, ask
from symphony.messages.acceptor import AcceptorReply
from symphony.messages.registry import RegistryReply, SetUpstream, UpstreamSet
from symphony.messages.upstreams import DescribeUpstreams, RouteUpstreams, UpstreamsDescription

_ANSWER_WITHIN_S = 1.0
_ROUTES_AT_ONCE = 500
_SET_WITHIN_S = 10.0


async def gather_upstreams(runtime_dir: str, acceptors: Iterable[str]) -> tuple[RouteUpstreams, ...]:
    """Ask `acceptors` in turn until one of them has told all routes; nothing when none does."""
    for name in acceptors:
        try:
            return await _ask_one(runtime_dir, name)
        except MailboxError:
            continue  # it is gone or stuck; its siblings know the same
    return ()


async def _ask_one(runtime_dir: str, name: str) -> tuple[RouteUpstreams, ...]:
    client = MailboxClient(mailbox_path(runtime_dir, name), AcceptorReply, name=name)
    routes: list[RouteUpstreams] = []
    try:
        await client.connect()
        while True:
            page = await client.call(DescribeUpstreams(len(routes), _ROUTES_AT_ONCE), _ANSWER_WITHIN_S)
            if not isinstance(page, UpstreamsDescription):
                raise MailboxError(f"{name}: the answer is of another kind than was asked for")
            routes.extend(page.routes)
            if not page.routes or len(routes) >= page.total:
                return tuple(routes)
    finally:
        await client.close()


class Done(Struct, frozen=True):
    """What came of :func:`set_upstream`: `behind` are acceptors that have not taken it up in time."""

    mode: UpstreamMode
    routes: tuple[str, ...]
    remaining: int
    behind: tuple[str, ...]


async def set_upstream(
    runtime_dir: str, acceptors: Sequence[str], route: str, upstream: str, mode: UpstreamMode
) -> Done:
    """Use an upstream otherwise, and wait (for a few seconds at most) until every acceptor does.

    For `route` and `mode` see :mod:`symphony.config.override`. Raises MailboxRefused when there is none such, and
    MailboxError when the registry does not answer.
    """
    path = mailbox_path(runtime_dir, REGISTRY)
    done = await ask(path, SetUpstream(route, upstream, mode), RegistryReply, _SET_WITHIN_S)
    if not isinstance(done, UpstreamSet):
        raise MailboxError("the answer is of another kind than was asked for")
    behind = await wait_applied(runtime_dir, acceptors, done.version, _SET_WITHIN_S)
    found = await gather_upstreams(runtime_dir, acceptors)
    remaining = [entry.active for row in found for entry in row.upstreams if entry.upstream == upstream]
    return Done(mode, done.routes, max(remaining, default=0), behind)
