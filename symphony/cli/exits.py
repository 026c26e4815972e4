"""What the exit codes of the ``symphony`` command mean, and how a command leaves with a line why."""

from __future__ import annotations

from enum import IntEnum
from typing import NoReturn

import click


class Exit(IntEnum):
    """The exit codes that scripts may rely on."""

    CLEAN = 0
    FAILURE = 1
    CONFIGURATION = 2
    NOT_RUNNING = 3


def leave(code: Exit, line: str = "") -> NoReturn:
    """End the command with `code`, and with `line` on standard error if there is one."""
    if line:
        click.echo(line, err=True)
    raise SystemExit(int(code))
