"""``symphony status`` for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from symphony.api.status import Status, UpstreamStatus
from symphony.cli.wording import count, route_shown

PLAIN_WIDTH = 240
"""Where the output is no terminal, lines are to be whole rather than short."""
UPSTREAMS_SHOWN = 30
WELL = "up"
READY = "ready"


def print_status(status: Status) -> None:
    """Print `status` as tables; without colour and lines where the output is no terminal."""
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(
        f"symphony {status.version}, pid {status.pid}, up {render_duration(status.uptime_s)}", highlight=False
    )
    console.print(
        f"configuration {status.config_version} ({status.config_file or 'the registry does not answer'}), "
        f"{status.routes} route{'' if status.routes == 1 else 's'}",
        highlight=False,
        soft_wrap=True,
    )
    listeners = _table("listener", "state", "active", "accepted", "blocked")
    for listener in status.listeners:
        blocked = sum(listener.blocked.values())
        listeners.add_row(
            listener.address, listener.state, str(listener.active), str(listener.accepted), str(blocked)
        )
    console.print(listeners)
    if status.connections.held:
        console.print(f"{status.connections.held} of them held (symphony suspended lists them)")
    _print_upstreams(console, status.upstreams)
    actors = _table("actor", "pid", "state", "active", "restarts", "uptime")
    for actor in status.actors:
        colour = {"running": "green", "draining": "yellow"}.get(actor.state, "red")
        actors.add_row(
            actor.name,
            str(actor.pid or "-"),
            f"[{colour}]{actor.state}[/]",
            str(actor.active) if actor.kind == "acceptor" else "",
            str(actor.restarts),
            render_duration(actor.uptime_s),
        )
    console.print(actors)
    for before in status.predecessors:
        console.print(
            f"process {before.pid}, before the upgrade, still has {count(before.active)}", highlight=False
        )
    if status.connections.errors:
        errors = _table("connections ended by", "times")
        for reason, times in status.connections.errors.items():
            errors.add_row(reason, str(times))
        console.print(errors)


def _print_upstreams(console: Console, upstreams: Sequence[UpstreamStatus]) -> None:
    """Print all of them, or, where that would be too long, those that are not as they should be."""
    shown = upstreams
    if len(upstreams) > UPSTREAMS_SHOWN:
        shown = [upstream for upstream in upstreams if upstream.state != WELL or upstream.mode != READY]
        hidden = len(upstreams) - len(shown)
        console.print(f"{len(upstreams)} upstreams, {hidden} of them {WELL}", highlight=False)
    if not shown:
        return
    table = _table("route", "upstream", "state", "weight", "active", "connections", "failures")
    for upstream in shown:
        state = upstream.state if upstream.mode == READY else f"{upstream.state}, set to {upstream.mode}"
        colour = "green" if state == WELL else "red" if upstream.mode == READY else "yellow"
        table.add_row(
            escape(route_shown(upstream.route)),
            escape(upstream.upstream),
            f"[{colour}]{state}[/]",
            str(upstream.weight),
            str(upstream.active),
            str(upstream.connections),
            str(upstream.failures),
        )
    console.print(table)


def render_duration(seconds: float) -> str:
    """Write a time the short way: ``4 s``, ``3 min 10 s``, ``2 h 5 min``, ``12 d 3 h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.add_column(first)
    for name in others:
        text = name in ("state", "upstream")
        table.add_column(name, justify="left" if text else "right", overflow="fold")
    return table
