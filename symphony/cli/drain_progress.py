"""Shows how many connections are left: one line that changes on a terminal, a line each time anywhere else."""

from __future__ import annotations

import sys

import click
import msgspec

from symphony.cli.wording import count


class Progress:
    """`as_json`: one object per line, whatever the output is."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._rewrites = not as_json and sys.stdout.isatty()
        self._width = 0

    def left(self, connections: int) -> None:
        """So many connections are left."""
        if self._as_json:
            self._print({"state": "draining", "remaining": connections})
            return
        line = f"{count(connections)} left"
        if self._rewrites:
            click.echo("\r" + line.ljust(self._width), nl=False)
            self._width = len(line)
        else:
            click.echo(line)

    def done(self, cut: int) -> None:
        """No connection is left; `cut` did not end in time."""
        if self._as_json:
            self._print({"state": "drained", "remaining": 0, "cut": cut})
            return
        self.interrupted()
        click.echo("drained" if not cut else f"drained: {count(cut)} did not end in time and had to be cut")

    def interrupted(self) -> None:
        """Something else is printed now."""
        if self._rewrites and self._width:
            click.echo()
            self._width = 0

    @staticmethod
    def _print(fields: dict[str, object]) -> None:
        click.echo(msgspec.json.encode(fields))
