"""``symphony top``."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import click

from symphony.cli.exits import Exit, leave
from symphony.cli.options import config_option, runtime_dir_option

if TYPE_CHECKING:
    from rich.console import Console


@click.command()
@click.option("--once", is_flag=True, help="Print one frame and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with everything and end.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 60),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often the instance is asked.",
)
@click.option(
    "--samples",
    type=click.IntRange(2, 300),
    default=2,
    show_default=True,
    metavar="N",
    help="How often --once asks before it prints: rates are of the last two, the bars show all.",
)
@config_option
@runtime_dir_option
def command(
    once: bool,
    as_json: bool,
    interval: float,
    samples: int,
    config_file: str | None,
    runtime_dir: str | None,
) -> None:
    """Watch the proxy at work: actors, listeners, routes, upstreams, events."""
    from symphony.cli.instance import find_instance

    instance = find_instance(runtime_dir, config_file)
    if as_json:
        from symphony.api.telemetry import TelemetrySource
        from symphony.cli.output import print_json

        telemetry = asyncio.run(TelemetrySource(instance.runtime_dir).gather())
        print_json(telemetry)
    elif once:
        from rich.console import Console

        console = Console()
        asyncio.run(_print_once(instance.runtime_dir, console, interval, samples))
    else:
        from rich.console import Console

        from symphony.dashboard.app import Dashboard

        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            leave(Exit.FAILURE, "symphony top needs a terminal; use --once or --json")

        async def run() -> None:
            await Dashboard(instance.runtime_dir, Console(), interval).run()

        asyncio.run(run())


async def _print_once(runtime_dir: str, console: Console, interval: float, samples: int) -> None:
    from rich.console import ConsoleDimensions

    from symphony.api.telemetry import TelemetrySource
    from symphony.dashboard.app import look_around
    from symphony.dashboard.frame import Frame
    from symphony.dashboard.history import History
    from symphony.dashboard.view import View

    history, source = History(), TelemetrySource(runtime_dir)
    for left in reversed(range(samples)):
        telemetry = await source.gather()
        history.add(telemetry)
        if left:
            await asyncio.sleep(interval)
    around = await look_around(runtime_dir, telemetry)
    if not console.is_terminal:
        # Not cut for a screen that is not there.
        width, height = os.environ.get("COLUMNS", "100"), os.environ.get("LINES", "200")
        console.size = ConsoleDimensions(int(width), int(height))
    view = View()
    view.selected = -1
    console.print(Frame(history, view, (), around=around, paper=not console.is_terminal))
    console.print()
