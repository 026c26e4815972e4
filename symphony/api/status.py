"""What a running instance is doing: one report, put together from the actors' own answers.

The supervisor, the registry and the acceptors are asked at the same time and get a second each. One that does
not answer is shown as such, and the report holds what the others said: a status command is run most when
something is wrong.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from msgspec import Struct, structs

from supervisor.messages import DescribeTree, TreeDescription, TreeReply
from symphony.api.asking import acceptors_in, ask_briefly
from symphony.api.names import CONTROL, REGISTRY, SUPERVISOR
from symphony.api.upstreams import gather_upstreams
from symphony.connection.ids import ACCEPTOR_PREFIX
from symphony.messages.acceptor import AcceptorDescription, AcceptorReply, DescribeAcceptor
from symphony.messages.control import ControlReply, DescribeService, ServiceDescription
from symphony.messages.registry import ConfigDescription, DescribeConfig, RegistryReply
from symphony.messages.upstreams import UpstreamDescription
from symphony.version import __version__

UNRESPONSIVE = "unresponsive"
RUNNING = "running"
DRAINING = "draining"


class ListenerStatus(Struct, frozen=True):
    """One listener over all acceptors. `address` is as bound; `blocked` maps a reason to refused connections.

    `state` is ``open``; ``draining`` or, with no connection left, ``drained`` when an operator has closed it;
    ``closing`` when it is no longer configured and still has connections.
    """

    id: str
    address: str
    active: int
    accepted: int
    blocked: dict[str, int] = {}
    state: str = "open"


class ActorStatus(Struct, frozen=True):
    """One process. `state` is the supervisor's word for it, ``draining`` for an acceptor that only finishes what it
    has, or ``unresponsive``. `active` is how many connections it holds."""

    name: str
    kind: str
    pid: int | None
    state: str
    restarts: int
    uptime_s: float
    active: int = 0


class ConnectionTotals(Struct, frozen=True):
    """All connections. `errors` maps a reason to how many connections it ended since the tree started.

    `held` of the active ones wait for a resolution.
    """

    active: int
    accepted: int
    bytes_up: int
    bytes_down: int
    errors: dict[str, int]
    held: int = 0


class UpstreamStatus(Struct, frozen=True):
    """One upstream of a route; its figures are over all routes. For `state`, see `symphony.messages.upstreams`."""

    route: str
    upstream: str
    weight: int
    state: str
    active: int
    connections: int
    failures: int
    bytes_up: int
    bytes_down: int
    connect_mean_ms: float
    mode: str = "ready"


class PredecessorStatus(Struct, frozen=True):
    """A supervisor that was taken over from by an upgrade, and how many connections it still has."""

    pid: int
    active: int


class Status(Struct, frozen=True):
    """What ``symphony status --json`` prints. `config_version` is 0 while nobody knows it."""

    version: str
    pid: int
    uptime_s: float
    config_file: str
    config_version: int
    routes: int
    listeners: tuple[ListenerStatus, ...]
    actors: tuple[ActorStatus, ...]
    connections: ConnectionTotals
    upstreams: tuple[UpstreamStatus, ...] = ()
    predecessors: tuple[PredecessorStatus, ...] = ()


async def gather_status(runtime_dir: str, pid: int) -> Status:
    """Ask the instance in `runtime_dir`, whose supervisor is process `pid`. Takes a second or so at most."""
    acceptor_names = acceptors_in(runtime_dir)
    tree, service, config, *acceptors = await asyncio.gather(
        ask_briefly(runtime_dir, SUPERVISOR, DescribeTree(), TreeReply),
        ask_briefly(runtime_dir, CONTROL, DescribeService(), ControlReply),
        ask_briefly(runtime_dir, REGISTRY, DescribeConfig(), RegistryReply),
        *(ask_briefly(runtime_dir, name, DescribeAcceptor(), AcceptorReply) for name in acceptor_names),
    )
    described = [answer for answer in acceptors if isinstance(answer, AcceptorDescription)]
    answering = {answer.name for answer in described}
    # Any acceptor of the newest generation sees the figures of all.
    upstreams = await gather_upstreams(
        runtime_dir, [name for name in acceptor_names[::-1] if name in answering]
    )
    if isinstance(config, ConfigDescription):
        answering.add(REGISTRY)
        file, version, routes = config.file, config.version, config.routes
    else:
        # The acceptors serve on while the registry is away, and know what they serve.
        file = ""
        version = max((answer.version for answer in described), default=0)
        routes = max((answer.routes for answer in described), default=0)
    return Status(
        version=__version__,
        pid=pid,
        uptime_s=round(time.time() - tree.started_at, 3) if isinstance(tree, TreeDescription) else 0.0,
        config_file=file,
        config_version=version,
        routes=routes,
        listeners=_listeners(service, described),
        actors=_actors(tree, answering, {REGISTRY, *acceptor_names}, service, described),
        connections=_connections(service, described),
        upstreams=tuple(_upstream(route.route, found) for route in upstreams for found in route.upstreams),
        predecessors=tuple(PredecessorStatus(each.pid, each.connections) for each in service.left)
        if isinstance(service, ServiceDescription)
        else (),
    )


def _upstream(route: str, found: UpstreamDescription) -> UpstreamStatus:
    mean_us = found.connect_us / found.connections if found.connections else 0.0
    return UpstreamStatus(
        route=route,
        upstream=found.upstream,
        weight=found.weight,
        state=found.state,
        active=found.active,
        connections=found.connections,
        failures=found.failures,
        bytes_up=found.bytes_up,
        bytes_down=found.bytes_down,
        connect_mean_ms=round(mean_us / 1000, 3),
        mode=found.mode,
    )


def _actors(
    tree: Any, answering: set[str], asked: set[str], service: Any, described: list[AcceptorDescription]
) -> tuple[ActorStatus, ...]:
    if not isinstance(tree, TreeDescription):
        # Without the supervisor, who answers is all that is known.
        return tuple(
            ActorStatus(name, _kind(name), None, "unknown" if name in answering else UNRESPONSIVE, 0, 0.0)
            for name in sorted(asked)
        )
    silent = asked - answering
    draining = service.draining if isinstance(service, ServiceDescription) else ()
    active = {answer.name: answer.active for answer in described}

    def state(name: str, state: str) -> str:
        if state == RUNNING and name in silent:
            return UNRESPONSIVE
        return DRAINING if name in draining and state in (RUNNING, "stopping") else state

    return tuple(
        ActorStatus(
            name=child.name,
            kind=child.kind,
            pid=child.pid or None,
            state=state(child.name, child.state),
            restarts=child.restarts,
            uptime_s=round(child.uptime_s, 3),
            active=active.get(child.name, 0),
        )
        for child in tree.children
    )


def _kind(name: str) -> str:
    return "acceptor" if name.startswith(ACCEPTOR_PREFIX) else name


def _listeners(service: Any, described: list[AcceptorDescription]) -> tuple[ListenerStatus, ...]:
    if isinstance(service, ServiceDescription):
        return tuple(
            ListenerStatus(part.id, part.address, part.active, part.accepted, part.blocked, part.state)
            for part in service.listeners
        )
    # Without the process that holds the ports, what the acceptors that answer say themselves.
    added: dict[str, ListenerStatus] = {}
    for answer in described:
        for part in answer.listeners:
            before = added.get(part.id, ListenerStatus(part.id, part.address, 0, 0))
            added[part.id] = structs.replace(
                before,
                active=before.active + part.active,
                accepted=before.accepted + part.accepted,
                blocked=dict(Counter(before.blocked) + Counter(part.blocked)),
            )
    return tuple(added.values())


def _connections(service: Any, described: list[AcceptorDescription]) -> ConnectionTotals:
    held = sum(answer.held for answer in described)
    if isinstance(service, ServiceDescription):
        return ConnectionTotals(
            service.active, service.accepted, service.bytes_up, service.bytes_down, service.errors, held
        )
    errors: Counter[str] = Counter()
    for answer in described:
        errors.update(answer.errors)
    return ConnectionTotals(
        active=sum(answer.active for answer in described),
        accepted=sum(answer.accepted for answer in described),
        bytes_up=sum(answer.bytes_up for answer in described),
        bytes_down=sum(answer.bytes_down for answer in described),
        errors=dict(errors.most_common()),
        held=held,
    )
