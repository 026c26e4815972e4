"""``symphony reload``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from symphony.cli.exits import Exit, leave
from symphony.cli.options import config_option, json_option, runtime_dir_option
from symphony.cli.wording import route_shown

if TYPE_CHECKING:
    from symphony.messages.control import ServiceReloaded

# Ten thousand routes with their certificates are read and checked in a few seconds, and then built by new acceptors.
_ANSWER_WITHIN_S = 180.0


@click.command()
@json_option
@config_option
@runtime_dir_option
def command(as_json: bool, config_file: str | None, runtime_dir: str | None) -> None:
    """Make the running instance read its configuration again, and wait until every acceptor serves as it says.

    Where listeners or workers have changed, new acceptors take over and those before finish their connections.
    """
    import asyncio

    from symphony.api.reload import request_reload
    from symphony.cli.instance import find_instance
    from symphony.config.problem import Severity
    from symphony.mailbox.client import MailboxError

    instance = find_instance(runtime_dir, config_file)
    try:
        done = asyncio.run(request_reload(instance.runtime_dir, _ANSWER_WITHIN_S))
    except MailboxError as error:
        leave(Exit.FAILURE, f"process {instance.pid} did not reload: {error}")
    if as_json:
        from msgspec import structs

        from symphony.cli.output import print_json

        print_json(structs.asdict(done))
    else:
        _print(done)
    if done.failure:
        leave(Exit.FAILURE, done.failure)
    if any(problem.severity is Severity.ERROR for problem in done.problems):
        raise SystemExit(Exit.CONFIGURATION)
    if done.behind:
        behind = ", ".join(done.behind)
        leave(Exit.FAILURE, f"not yet taken up by {behind}; what does not answer is started again by itself")


def _print(done: ServiceReloaded) -> None:
    for problem in done.problems:
        click.echo(problem.line(done.file), err=True)
    if done.kept:
        names = ", ".join(map(route_shown, done.kept))
        click.echo(f"kept at their last good version: {names}", err=True)
    click.echo(f"configuration {done.version}: " + ("in force" if done.changed else "nothing changed"))
    if done.acceptors:
        click.echo(f"serving from now on: {', '.join(done.acceptors)}")
