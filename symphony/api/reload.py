"""Make a running instance read its configuration again."""

from __future__ import annotations

import asyncio

from symphony.api.names import CONTROL
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxError, MailboxTimeout, ask
from symphony.messages.control import ControlReply, ReloadService, ServiceReloaded


async def request_reload(runtime_dir: str, timeout_s: float) -> ServiceReloaded:
    """Have the instance in `runtime_dir` reload; return what came of it, once every acceptor serves so.

    Acceptors that take longer than a few seconds are named in what is returned.

    Raises MailboxError when it does not answer within `timeout_s` seconds, or cannot reload at all.
    """
    try:
        async with asyncio.timeout(timeout_s):
            done = await ask(mailbox_path(runtime_dir, CONTROL), ReloadService(), ControlReply, timeout_s)
    except TimeoutError:
        raise MailboxTimeout(f"no answer within {timeout_s:g} s") from None
    if not isinstance(done, ServiceReloaded):
        raise MailboxError("the answer is of another kind than was asked for")
    return done
