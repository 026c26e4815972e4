"""Make a running instance read its configuration again."""

from __future__ import annotations

import asyncio

from symphony.api.status import REGISTRY
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxError, MailboxTimeout, ask
from symphony.messages.registry import (
    ConfigDescription,
    DescribeConfig,
    RegistryReply,
    Reload,
    ReloadDone,
)


async def request_reload(runtime_dir: str, timeout_s: float) -> tuple[str, ReloadDone]:
    """Ask the registry in `runtime_dir` to reload; return the file that it read, and what came of it.

    Raises MailboxError when the registry does not answer within `timeout_s` seconds.
    """
    path = mailbox_path(runtime_dir, REGISTRY)
    try:
        async with asyncio.timeout(timeout_s):
            done = await ask(path, Reload(), RegistryReply, timeout_s)
            described = await ask(path, DescribeConfig(), RegistryReply, timeout_s)
    except TimeoutError:
        raise MailboxTimeout(f"no answer within {timeout_s:g} s") from None
    if not isinstance(done, ReloadDone) or not isinstance(described, ConfigDescription):
        raise MailboxError("the answer is of another kind than was asked for")
    return described.file, done
