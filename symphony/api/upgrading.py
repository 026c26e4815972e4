"""Ask a running instance to let a new supervisor take over."""

from __future__ import annotations

import asyncio

from symphony.api.names import CONTROL
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxError, MailboxTimeout, ask
from symphony.messages.control import ControlReply, ServiceUpgraded, UpgradeRefused, UpgradeService


async def request_upgrade(runtime_dir: str, timeout_s: float) -> ServiceUpgraded | UpgradeRefused:
    """Have the instance in `runtime_dir` upgraded; return what came of it.

    Raises MailboxError when it does not answer within `timeout_s` seconds.
    """
    try:
        async with asyncio.timeout(timeout_s):
            done = await ask(mailbox_path(runtime_dir, CONTROL), UpgradeService(), ControlReply, timeout_s)
    except TimeoutError:
        raise MailboxTimeout(f"no answer within {timeout_s:g} s") from None
    if not isinstance(done, ServiceUpgraded | UpgradeRefused):
        raise MailboxError("the answer is of another kind than was asked for")
    return done
