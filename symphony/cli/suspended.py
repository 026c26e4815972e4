"""``symphony suspended``."""

from __future__ import annotations

import asyncio

import click

from symphony.cli.exits import Exit, leave
from symphony.cli.options import config_option, runtime_dir_option


@click.command()
@click.option(
    "--follow", is_flag=True, help="Stay, and print each connection that is held or released, a line each."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --follow, one object per line.")
@config_option
@runtime_dir_option
def command(follow: bool, as_json: bool, config_file: str | None, runtime_dir: str | None) -> None:
    """List the connections that suspended routes hold."""
    from symphony.cli.instance import find_instance

    instance = find_instance(runtime_dir, config_file)
    if follow:
        from symphony.cli.following import follow_events
        from symphony.messages.events import Released, Suspended

        follow_events(instance, as_json, (Suspended, Released))
        return
    from symphony.api.held import list_held

    found = asyncio.run(list_held(instance.runtime_dir))
    if as_json:
        import msgspec

        from symphony.cli.output import print_json

        rows = [msgspec.structs.asdict(held) for held in found.held]
        print_json(rows)
    else:
        from symphony.cli.suspended_page import print_suspended

        print_suspended(found.held)
    if found.silent:
        leave(Exit.FAILURE, f"no answer from {', '.join(found.silent)}: what it holds is not in the list")
