"""What has happened between two states of an instance, in words for the event log."""

from __future__ import annotations

from collections.abc import Iterator

from symphony.config.server_name import DEFAULT_ROUTE
from symphony.observe.telemetry import ActorTelemetry, Telemetry


def changes(before: Telemetry, now: Telemetry) -> Iterator[str]:
    """One line each; nothing of what is the same."""
    if now.pid and before.pid and now.pid != before.pid:
        yield f"process {now.pid} serves instead of {before.pid}"
        return
    yield from _actors(before, now)
    if now.config_version != before.config_version and now.config_version and before.config_version:
        yield f"configuration {now.config_version} is in force"
    yield from _upstreams(before, now)


def _actors(before: Telemetry, now: Telemetry) -> Iterator[str]:
    if not before.actors or not now.actors:
        return  # the supervisor was silent
    earlier = {actor.name: actor for actor in before.actors}
    later = {actor.name for actor in now.actors}
    for actor in now.actors:
        was = earlier.get(actor.name)
        if was is None:
            yield f"{actor.name} is new"
        elif actor.restarts > was.restarts:
            yield f"{actor.name} was started again as process {actor.pid or '-'}{_end(actor)}"
        elif actor.state != was.state:
            yield f"{actor.name} is {actor.state}{_end(actor) if actor.state != 'running' else ''}"
    for actor in before.actors:
        if actor.name not in later:
            yield f"{actor.name} is gone"


def _end(actor: ActorTelemetry) -> str:
    return f": {actor.last_exit}" if actor.last_exit else ""


def _upstreams(before: Telemetry, now: Telemetry) -> Iterator[str]:
    earlier = {
        (route.route, each.upstream): each.summary
        for route in before.route_states
        for each in route.upstreams
    }
    changed: dict[tuple[str, str], list[str]] = {}
    for route in now.route_states:
        for each in route.upstreams:
            if earlier.get((route.route, each.upstream), each.summary) != each.summary:
                changed.setdefault((each.upstream, each.summary), []).append(route.route or DEFAULT_ROUTE)
    for (upstream, summary), routes in changed.items():
        more = f" and {len(routes) - 1} more" if len(routes) > 1 else ""
        yield f"upstream {upstream} is {summary} (route {routes[0]}{more})"
