"""``symphony routes`` for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from symphony.api.routes import RouteReport
from symphony.cli.status_page import PLAIN_WIDTH, READY, WELL
from symphony.cli.wording import route_shown
from symphony.dashboard.numbers import size

_RIGHT = ("active", "connections", "failures", "up", "down", "p50", "p99")


def print_routes(routes: Sequence[RouteReport]) -> None:
    """Print a line for each route, and below it one for each of its upstreams."""
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    if not routes:
        console.print("no route")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("route", "state", *_RIGHT):
        table.add_column(name, justify="right" if name in _RIGHT else "left", overflow="fold")
    for route in routes:
        table.add_row(
            escape(route_shown(route.route)),
            _healthy(route),
            str(route.active),
            str(route.connections),
            str(route.failures),
            size(route.bytes_up),
            size(route.bytes_down),
            _ms(route.handshake_p50_ms),
            _ms(route.handshake_p99_ms),
        )
        for each in route.upstreams:
            state = each.state if each.mode == READY else f"{each.state}, set to {each.mode}"
            colour = "green" if state == WELL else "red" if each.mode == READY else "yellow"
            table.add_row(
                f"  {escape(each.upstream)}",
                f"[{colour}]{state}[/]",
                str(each.active),
                str(each.connections),
                str(each.failures),
                "",
                "",
                _ms(each.connect_p50_ms),
                _ms(each.connect_p99_ms),
            )
    console.print(table)


def _healthy(route: RouteReport) -> str:
    if not route.upstreams:
        return "-"
    up = sum(each.state == WELL and each.mode == READY for each in route.upstreams)
    colour = "green" if up == len(route.upstreams) else "yellow" if up else "red"
    return f"[{colour}]{up} of {len(route.upstreams)} up[/]"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
