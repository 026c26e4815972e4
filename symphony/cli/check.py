"""``symphony check``."""

from __future__ import annotations

import click

from symphony.cli.exits import Exit, leave
from symphony.cli.options import config_option


@click.command()
@config_option
def command(config_file: str | None) -> None:
    """Validate everything that a start would, files included, without binding."""
    from symphony.api.examine import examine
    from symphony.config.problem import ConfigError
    from symphony.config.source import find_file

    try:
        file = find_file(config_file)
        found = examine(file)
    except ConfigError as error:
        leave(Exit.CONFIGURATION, str(error))
    for warning in found.warnings:
        click.echo(warning.line(file), err=True)
    click.echo(f"{_count(found.routes, 'route')}, {_count(len(found.listeners), 'listener')}, ok")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
