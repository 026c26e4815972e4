"""``symphony check``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from symphony.cli.exits import Exit, leave
from symphony.cli.options import config_option, json_option

if TYPE_CHECKING:
    from symphony.config.problem import Problem


@click.command()
@json_option
@config_option
def command(as_json: bool, config_file: str | None) -> None:
    """Validate everything that a start would, files included, without binding."""
    from symphony.api.examine import examine
    from symphony.config.problem import ConfigError
    from symphony.config.source import find_file

    file = config_file or ""
    try:
        file = find_file(config_file)
        found = examine(file)
    except ConfigError as error:
        if as_json:
            _print(file, (), 0, error.problems)
            raise SystemExit(Exit.CONFIGURATION) from error
        leave(Exit.CONFIGURATION, str(error))
    if as_json:
        _print(file, [listener.id for listener in found.listeners], found.routes, found.warnings)
        return
    for warning in found.warnings:
        click.echo(warning.line(file), err=True)
    click.echo(f"{_count(found.routes, 'route')}, {_count(len(found.listeners), 'listener')}, ok")


def _print(file: str, listeners: Sequence[str], routes: int, problems: Sequence[Problem]) -> None:
    from symphony.cli.output import print_json
    from symphony.config.problem import Severity

    ok = all(problem.severity is not Severity.ERROR for problem in problems)
    print_json({"file": file, "ok": ok, "listeners": listeners, "routes": routes, "problems": problems})


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
