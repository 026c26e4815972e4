"""``symphony upgrade``."""

from __future__ import annotations

import click

from symphony.cli.exits import Exit, leave
from symphony.cli.options import config_option, json_option, runtime_dir_option

# More than the new process has to get ready, and then to take over.
_ANSWER_WITHIN_S = 180.0


@click.command()
@json_option
@config_option
@runtime_dir_option
def command(as_json: bool, config_file: str | None, runtime_dir: str | None) -> None:
    """Start the program anew, as it is installed now, and let it take over without a gap.

    The instance that runs now finishes its connections and ends. When the new one does not become ready, nothing
    changes.
    """
    import asyncio

    from symphony.api.upgrading import request_upgrade
    from symphony.cli.instance import find_instance
    from symphony.mailbox.client import MailboxError
    from symphony.messages.control import UpgradeRefused

    instance = find_instance(runtime_dir, config_file)
    try:
        done = asyncio.run(request_upgrade(instance.runtime_dir, _ANSWER_WITHIN_S))
    except MailboxError as error:
        leave(Exit.FAILURE, f"process {instance.pid} was not upgraded: {error}")
    if isinstance(done, UpgradeRefused):
        code = Exit.CONFIGURATION if done.configuration else Exit.FAILURE
        leave(code, f"process {instance.pid} serves on: {done.reason}")
    if as_json:
        from symphony.cli.output import print_json

        print_json({"pid": done.pid, "predecessor": instance.pid})
        return
    click.echo(f"process {done.pid} has taken over from {instance.pid}, which finishes its connections")
