"""``symphony version``."""

from __future__ import annotations

import click

from symphony.cli.options import json_option
from symphony.version import __version__


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Print the version."""
    if as_json:
        from symphony.cli.output import print_json

        print_json({"version": __version__})
        return
    click.echo(f"symphony {__version__}")
