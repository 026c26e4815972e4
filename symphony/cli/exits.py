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

    @property
    def meaning(self) -> str:
        """In words."""
        return _MEANINGS[self]


_MEANINGS = {
    Exit.CLEAN: "done, or stopped cleanly",
    Exit.FAILURE: "anything else; standard error says what, and what to do",
    Exit.CONFIGURATION: "an error in the configuration or on the command line",
    Exit.NOT_RUNNING: "nothing runs there, or not any more",
}


def leave(code: Exit, line: str = "") -> NoReturn:
    """End the command with `code`, and with `line` on standard error if there is one."""
    if line:
        click.echo(line, err=True)
    raise SystemExit(int(code))
