"""``symphony doctor`` for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from symphony.host.doctor import Finding, Health

_COLOURS = {Health.OK: "green", Health.WARNING: "yellow", Health.ERROR: "red"}


def print_findings(findings: Iterable[Finding]) -> None:
    """Print one line for each, and below it what to change."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        colour = _COLOURS[finding.health]
        table.add_row(f"[{colour}]{finding.health.value}[/]", finding.check, escape(finding.found))
        if finding.advice:
            table.add_row("", "", f"[{colour}]change:[/] {escape(finding.advice)}")
    Console().print(table)
