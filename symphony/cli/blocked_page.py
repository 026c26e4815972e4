"""``symphony blocked`` for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from symphony.api.blocked import BlockedReport
from symphony.cli.status_page import render_duration

SHOWN = 20
"""How many entries of one list are printed."""


def print_blocked(report: BlockedReport) -> None:
    """Print the sources and the lists as tables; without colour and lines where the output is no terminal."""
    console = Console()
    if report.sources:
        sources = Table("listener", "source", "reason", "for", box=None, pad_edge=False, header_style="bold")
        for entry in report.sources:
            rest = render_duration(entry.seconds) if entry.seconds >= 1 else "< 1 s" if entry.seconds else "-"
            sources.add_row(entry.listener, entry.source, entry.reason, rest)
        console.print(sources)
    else:
        console.print("no source exceeds its limits")
    if report.left_out:
        console.print(f"and {report.left_out} more", highlight=False)
    for lists in report.lists:
        for name in ("allowlist", "blocklist", "asn_blocklist", "ja3_blocklist", "ja4_blocklist"):
            entries = tuple(map(str, getattr(lists, name)))
            if entries:
                more = f" and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
                console.print(
                    f"{lists.listener} {name}: {', '.join(entries[:SHOWN])}{more}",
                    highlight=False,
                    soft_wrap=True,
                    markup=False,
                )
