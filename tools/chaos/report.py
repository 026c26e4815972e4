"""The table at the end."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tools.chaos.verdict import Row

_SHOWN = 8


def print_rows(rows: list[Row], console: Console) -> bool:
    """Print the table and what is wrong; return whether every promise was kept."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("promise", overflow="fold", ratio=2)
    table.add_column("kept")
    table.add_column("figures", overflow="fold", ratio=3)
    for row in rows:
        mark = Text("-") if row.kept is None else Text("yes", "green") if row.kept else Text("NO", "bold red")
        table.add_row(row.promise, mark, row.figures)
    console.print(table)
    for row in rows:
        if row.kept is False:
            console.print(f"\nNOT KEPT: {row.promise}", style="bold red")
            for problem in row.problems[:_SHOWN]:
                console.print(f"  {problem}", markup=False, highlight=False)
            if len(row.problems) > _SHOWN:
                console.print(f"  and {len(row.problems) - _SHOWN} more")
    return not any(row.kept is False for row in rows)
