"""The running instance that a command speaks to."""

from __future__ import annotations

import os
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from symphony.cli.exits import Exit, leave
from symphony.cli.places import choose_runtime_dir
from symphony.mailbox.address import RuntimeDirError, check_runtime_dir, live_pid

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Instance:
    """A live supervisor: its runtime directory and process id."""

    runtime_dir: str
    pid: int


def find_instance(runtime_dir: str | None, config_file: str | None) -> Instance:
    """The instance in `runtime_dir`, else in the configuration file's, else in the default one.

    Ends the command with code 3 and one line when nothing runs there.
    """
    directory = choose_runtime_dir(runtime_dir, config_file)
    if not os.path.isdir(directory):
        leave(Exit.NOT_RUNNING, f"nothing runs in {directory}")
    try:
        check_runtime_dir(directory)
        pid = live_pid(directory)
    except RuntimeDirError as error:
        leave(Exit.FAILURE, str(error))
    if pid is None:
        leave(Exit.NOT_RUNNING, f"nothing runs in {directory}")
    return Instance(directory, pid)


def have_done(instance: Instance, work: Coroutine[Any, Any, T]) -> T:
    """Have `instance` do `work`, and return what came of it.

    Ends the command with code 1 and one line when it does not.
    """
    import asyncio

    from symphony.mailbox.client import MailboxError, MailboxRefused

    try:
        return asyncio.run(work)
    except MailboxRefused as refused:
        leave(Exit.FAILURE, refused.reason)
    except MailboxError as error:
        leave(Exit.FAILURE, f"process {instance.pid} did not do it: {error}")


def leave_if_behind(behind: Sequence[str]) -> None:
    """End the command with code 1 when there are acceptors that have not taken up what was done."""
    if behind:
        leave(Exit.FAILURE, f"not yet taken up by {', '.join(behind)}")
