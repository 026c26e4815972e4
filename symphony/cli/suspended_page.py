"""``symphony suspended`` for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from symphony.cli.wording import printable, render_peer
from symphony.messages.events import Suspended

_UNFOLDED = 1000


def print_suspended(held: Sequence[Suspended]) -> None:
    """Print `held` as a table, or that there is nothing; without colour where the output is no terminal."""
    # Where nobody looks, nothing is to be folded: the table is then read by programs, line by line.
    console = Console(width=None if sys.stdout.isatty() else _UNFOLDED)
    if not held:
        console.print("no connection is held")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("id", "server name", "client", "listener", "held for", "left"):
        table.add_column(title, overflow="fold", justify="right" if title in ("held for", "left") else "left")
    for one in held:
        table.add_row(
            one.id,
            escape(printable(one.sni)) or "-",
            render_peer(one.peer_ip, one.peer_port),
            one.listener,
            f"{one.held_ms / 1000:.1f} s",
            f"{max(0, one.timeout_ms - one.held_ms) / 1000:.1f} s",
        )
    console.print(table)
