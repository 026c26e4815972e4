"""``symphony status``."""

from __future__ import annotations

import asyncio

import click

from symphony.cli.exits import Exit
from symphony.cli.options import config_option, runtime_dir_option


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--healthy", is_flag=True, help="Print nothing; end with 1 unless an acceptor serves.")
@config_option
@runtime_dir_option
def command(as_json: bool, healthy: bool, config_file: str | None, runtime_dir: str | None) -> None:
    """Show what runs: listeners, actors, connections and errors."""
    from symphony.api.status import RUNNING, gather_status
    from symphony.cli.instance import find_instance

    instance = find_instance(runtime_dir, config_file)
    status = asyncio.run(gather_status(instance.runtime_dir, instance.pid))
    if healthy:
        serving = any(actor.kind == "acceptor" and actor.state == RUNNING for actor in status.actors)
        raise SystemExit(Exit.CLEAN if serving else Exit.FAILURE)
    if as_json:
        from symphony.cli.output import print_json

        print_json(status)
    else:
        from symphony.cli.status_page import print_status

        print_status(status)
