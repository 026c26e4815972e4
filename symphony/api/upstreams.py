"""How the upstreams of a running instance fare, as any one of its acceptors can tell."""

from __future__ import annotations

from collections.abc import Iterable

from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxClient, MailboxError
from symphony.messages.acceptor import AcceptorReply
from symphony.messages.upstreams import DescribeUpstreams, RouteUpstreams, UpstreamsDescription

_ANSWER_WITHIN_S = 1.0
_ROUTES_AT_ONCE = 500


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
