"""``symphony drain``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from symphony.cli.exits import Exit, leave
from symphony.cli.options import config_option, runtime_dir_option

if TYPE_CHECKING:
    import select

    from symphony.cli.instance import Instance

_ENDS_WITHIN_S = 10.0


@click.command()
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Cut connections that are still open after so long "
    "(default: the configuration's drain_timeout_ms, and never for one listener).",
)
@click.option("--listener", default="", metavar="ID", help="Only this listener, as symphony status names it.")
@click.option("--resume", is_flag=True, help="Let clients in again on the listener.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@config_option
@runtime_dir_option
def command(
    timeout: float | None,
    listener: str,
    resume: bool,
    as_json: bool,
    config_file: str | None,
    runtime_dir: str | None,
) -> None:
    """Let nobody in any more, show how many connections are left, return when there are none.

    The instance then ends. With --listener, one port is closed and everything else goes on; it stays closed over
    reloads and upgrades until it is taken back with --resume. Interrupting this command ends the waiting alone.
    """
    import asyncio

    from symphony.api.draining import drain
    from symphony.cli.drain_progress import Progress
    from symphony.cli.instance import find_instance
    from symphony.mailbox.client import MailboxError, MailboxRefused

    if resume and (not listener or timeout is not None):
        raise click.UsageError("--resume takes --listener, and no --timeout")
    instance = find_instance(runtime_dir, config_file)
    if resume:
        _resume(instance, listener, as_json)
        return
    progress = Progress(as_json)
    ended = _watch_end(instance.pid) if not listener else None
    try:
        cut = asyncio.run(drain(instance.runtime_dir, timeout, listener, progress.left))
    except KeyboardInterrupt:
        progress.interrupted()
        leave(Exit.FAILURE, "it goes on draining")
    except MailboxRefused as refused:
        progress.interrupted()
        leave(Exit.FAILURE, refused.reason)
    except MailboxError as error:
        progress.interrupted()
        leave(Exit.FAILURE, f"process {instance.pid}: {error}")
    if ended is not None and not ended.poll(_ENDS_WITHIN_S * 1000):
        progress.interrupted()
        leave(Exit.FAILURE, f"process {instance.pid} does not end")
    progress.done(cut)


def _watch_end(pid: int) -> select.poll:
    import os
    import select

    watch = select.poll()
    try:
        watch.register(os.pidfd_open(pid), select.POLLIN)
    except ProcessLookupError:
        leave(Exit.NOT_RUNNING, f"process {pid} has ended")
    return watch


def _resume(instance: Instance, listener: str, as_json: bool) -> None:
    import msgspec

    from symphony.api.draining import resume_listener
    from symphony.cli.instance import have_done, leave_if_behind

    done = have_done(instance, resume_listener(instance.runtime_dir, listener))
    if as_json:
        click.echo(msgspec.json.encode({"state": "open", "listener": done.address, "behind": done.behind}))
    else:
        click.echo(f"{done.address} is open again")
    leave_if_behind(done.behind)
