"""``symphony events``."""

from __future__ import annotations

import click

from symphony.cli.options import config_option, runtime_dir_option


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@config_option
@runtime_dir_option
def command(as_json: bool, config_file: str | None, runtime_dir: str | None) -> None:
    """Stay, and print what happens: connections that are refused, held and released."""
    from symphony.cli.following import follow_events
    from symphony.cli.instance import find_instance
    from symphony.messages.events import Blocked, Released, Suspended

    follow_events(find_instance(runtime_dir, config_file), as_json, (Blocked, Suspended, Released))
