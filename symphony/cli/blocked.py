"""``symphony blocked``."""

from __future__ import annotations

import asyncio

import click

from symphony.cli.exits import Exit, leave
from symphony.cli.options import config_option, runtime_dir_option


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every listed network.")
@click.option(
    "--limit", default=10_000, show_default=True, type=click.IntRange(0), help="List so many sources at most."
)
@config_option
@runtime_dir_option
def command(as_json: bool, limit: int, config_file: str | None, runtime_dir: str | None) -> None:
    """List who is refused: sources that exceed their limits, and what the configuration lists."""
    from symphony.api.blocked import list_blocked
    from symphony.cli.instance import find_instance

    instance = find_instance(runtime_dir, config_file)
    report = asyncio.run(list_blocked(instance.runtime_dir, limit))
    if as_json:
        from symphony.cli.output import print_json

        print_json(report)
    else:
        from symphony.cli.blocked_page import print_blocked

        print_blocked(report)
    if report.silent:
        leave(Exit.FAILURE, f"no answer from {', '.join(report.silent)}: what it knows is not in the list")
