"""Waits until acceptors serve what the registry has published."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from symphony.api.names import REGISTRY
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxError, ask
from symphony.messages.registry import AppliedBy, AwaitApplied, RegistryReply

_AGAIN_AFTER_S = 0.05
_REGISTRY_ANSWERS_WITHIN_S = 1.0


async def wait_applied(
    runtime_dir: str, acceptors: Sequence[str], version: int, within_s: float
) -> tuple[str, ...]:
    """Wait until every acceptor serves configuration `version` or a later one; return those that do not yet.

    That takes some `within_s` seconds at most. A registry that dies meanwhile is asked again when it is back: until
    then nobody knows what the acceptors serve.
    """
    path = mailbox_path(runtime_dir, REGISTRY)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        left = max(0.0, deadline - loop.time())
        request = AwaitApplied(version, tuple(acceptors), left)
        try:
            answer = await ask(path, request, RegistryReply, left + _REGISTRY_ANSWERS_WITHIN_S)
        except MailboxError:
            if loop.time() >= deadline:
                return tuple(acceptors)
            await asyncio.sleep(_AGAIN_AFTER_S)
            continue
        if not isinstance(answer, AppliedBy):
            raise MailboxError("the answer is of another kind than was asked for")
        return answer.behind
