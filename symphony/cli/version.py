"""``symphony version``."""

from __future__ import annotations

import click

from symphony.version import __version__


@click.command()
def command() -> None:
    """Print the version."""
    click.echo(f"symphony {__version__}")
