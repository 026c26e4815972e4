"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def config_option(command: Command) -> Command:
    """``-c FILE``."""
    return click.option(
        "-c", "--config", "config_file", type=click.Path(), metavar="FILE", help="The configuration file."
    )(command)


def runtime_dir_option(command: Command) -> Command:
    """``--runtime-dir DIR``."""
    return click.option(
        "--runtime-dir",
        type=click.Path(),
        metavar="DIR",
        help="Where the instance keeps its sockets and lock.",
    )(command)
