"""Prints the events of a running instance as they come, one line each."""

from __future__ import annotations

import asyncio

import click
import msgspec

from symphony.api.events import EventFeed, SubscriberTooSlow
from symphony.cli.exits import Exit, leave
from symphony.cli.instance import Instance
from symphony.cli.wording import printable, render_peer
from symphony.messages.events import Blocked, Event, Released, Suspended


def follow_events(instance: Instance, as_json: bool, kinds: tuple[type[Event], ...]) -> None:
    """Print events of `kinds` until the user interrupts (returns) or the instance ends (leaves with code 3)."""
    try:
        asyncio.run(_follow(instance.runtime_dir, as_json, kinds))
    except KeyboardInterrupt:
        return
    except SubscriberTooSlow as error:
        leave(Exit.FAILURE, str(error))
    leave(Exit.NOT_RUNNING, f"process {instance.pid} has ended")


async def _follow(runtime_dir: str, as_json: bool, kinds: tuple[type[Event], ...]) -> None:
    render = render_json if as_json else render_line
    async with EventFeed(runtime_dir) as feed:
        async for event in feed.subscribe():
            if isinstance(event, kinds):
                click.echo(render(event))


def render_json(event: Event) -> str:
    """One JSON object: ``event`` says which kind it is, the rest are its fields."""
    return msgspec.json.encode(
        {"event": type(event).__name__.lower(), **msgspec.structs.asdict(event)}
    ).decode()


def render_line(event: Event) -> str:
    """One line for people."""
    match event:
        case Suspended():
            name = printable(event.sni) or "no server name"
            left = max(0, event.timeout_ms - event.held_ms) / 1000
            return (
                f"suspended {event.id} {name} from {render_peer(event.peer_ip, event.peer_port)} "
                f"on {event.listener}, {left:g} s left"
            )
        case Released(id, how):
            return f"released {id} {how}"
        case Blocked():
            name = f" {printable(event.sni)}" if event.sni else ""
            others = f", and {event.left_out} more not shown" if event.left_out else ""
            return f"blocked {event.ip} {event.reason}{name} on {event.listener}{others}"
