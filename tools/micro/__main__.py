"""The program: ``python -m tools.micro --help``."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tools.micro import count as counting
from tools.micro.cases import CASES, Case, UnknownCase, select

PLAIN_WIDTH = 140

_names = click.argument("names", nargs=-1, metavar="[CASE]...")


def _chosen(names: tuple[str, ...]) -> list[Case]:
    try:
        return select(names)
    except UnknownCase as error:
        raise click.UsageError(str(error)) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure single operations of the proxy: instructions per call, or nanoseconds."""


@main.command("list")
def list_cases() -> None:
    """List the cases."""
    for case in CASES:
        click.echo(f"{case.name:18}{case.title}")


@main.command()
@_names
@click.option("--update", is_flag=True, help="Store the counts as the baseline of this environment.")
def count(names: tuple[str, ...], update: bool) -> None:
    """Count instructions per call and compare them with the stored baseline.

    Exits with 1 when a case takes over 3 % more than its baseline. Where nothing can be counted or compared, it says
    why and exits with 0.
    """
    cases = _chosen(names)
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    try:
        counts = counting.count(cases)
    except counting.CannotCount as error:
        console.print(f"[yellow]skipped:[/yellow] {escape(str(error))}", highlight=False)
        return
    known = counting.read_baseline().environments.get(counting.environment())
    results = counting.compare(counts, known or {})
    titles = {case.name: case.title for case in cases}
    table = Table("case", "operation", "instructions", "baseline", "change")
    for result in results:
        change = "-" if result.change is None else f"{result.change:+.1%}"
        colour = "red" if result.regressed else "green" if result.improved else "default"
        before = "-" if result.before is None else f"{result.before:,.0f}"
        table.add_row(
            result.name, titles[result.name], f"{result.now:,.0f}", before, f"[{colour}]{change}[/{colour}]"
        )
    console.print(table)
    if update:
        counting.store(counts)
        console.print(f"stored in {counting.BASELINE.name} for {counting.environment()}", highlight=False)
        return
    if known is None:
        console.print(
            f"[yellow]not compared:[/yellow] the baseline has nothing for this environment "
            f"({counting.environment()}); `python -m tools.micro count --update` stores it",
            highlight=False,
        )
        return
    for result in results:
        if result.regressed:
            console.print(
                f"[red]regressed:[/red] {result.name} takes {result.change:.1%} more instructions",
                highlight=False,
            )
    if any(result.regressed for result in results):
        raise SystemExit(1)


@main.command("time")
@_names
@click.option("--output", "-o", help="Write pyperf's figures there, for `pyperf compare_to`.")
@click.option("--fast", is_flag=True, help="Fewer values: rough figures sooner.")
def time_cases(names: tuple[str, ...], output: str | None, fast: bool) -> None:
    """Measure nanoseconds per call, with pyperf. Says so when that is not installed."""
    cases = _chosen(names)
    if importlib.util.find_spec("pyperf") is None:
        click.echo("skipped: pyperf is not installed (pip install '.[bench]')")
        return
    command = [sys.executable, "-m", "tools.micro.timed", "--inherit-environ", "PYTHONPATH"]
    command += ["--fast"] if fast else []
    command += ["-o", output] if output else []
    for case in cases:
        command += ["--case", case.name]
    environment = dict(os.environ, PYTHONPATH=str(counting.ROOT))
    raise SystemExit(subprocess.run(command, check=False, env=environment).returncode)  # noqa: S603


if __name__ == "__main__":
    main(prog_name="micro")
