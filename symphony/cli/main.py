"""The ``symphony`` command: finds the subcommand's file and imports nothing else.

`symphony run` lives as long as the proxy does, so it must not carry what only the other commands need, and
`symphony version` must not load OpenSSL.
"""

from __future__ import annotations

import importlib

import click

COMMANDS = (
    "run",
    "check",
    "status",
    "routes",
    "top",
    "reload",
    "upgrade",
    "drain",
    "stop",
    "upstream",
    "suspended",
    "resolve",
    "events",
    "blocked",
    "certs",
    "doctor",
    "version",
)


class _CommandFiles(click.Group):
    """A group whose command `name` is the object `command` of the file ``symphony/cli/<name>.py``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"symphony.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_CommandFiles, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A TLS-terminating, SNI-routing proxy run as a supervised tree of processes."""
