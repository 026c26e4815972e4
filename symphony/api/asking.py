"""Asking the actors of a running instance, of which any may be silent or gone."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from msgspec import Struct

from symphony.connection.ids import ACCEPTOR_PREFIX
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxError, ask

ANSWER_WITHIN_S = 1.0


async def ask_briefly(
    runtime_dir: str, name: str, message: Struct, replies: Any, within_s: float = ANSWER_WITHIN_S
) -> Any:
    """The reply of the actor `name`, one of the messages `replies`; None when there is none in time."""
    try:
        async with asyncio.timeout(within_s):
            return await ask(mailbox_path(runtime_dir, name), message, replies, within_s)
    except (MailboxError, TimeoutError):
        return None


def acceptors_in(runtime_dir: str) -> list[str]:
    """The acceptors' names, by their mailboxes: so they are asked even when the supervisor is silent."""
    names = [name[: -len(".sock")] for name in os.listdir(runtime_dir) if name.endswith(".sock")]
    numbers = [name[len(ACCEPTOR_PREFIX) :] for name in names if name.startswith(ACCEPTOR_PREFIX)]
    return [f"{ACCEPTOR_PREFIX}{number}" for number in sorted(int(n) for n in numbers if n.isdecimal())]
