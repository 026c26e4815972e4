"""The proxy's supervision tree, composed from a checked configuration.

    root (one_for_one)
    ├── state (one_for_one)      route-registry, rate-limiter, cpu-sampler
    ├── demo (one_for_one)       demo-upstream; only with --demo
    ├── observers (one_for_one)  admin; only with [admin]
    └── acceptors-1 (one_for_one)  acceptor-0 .. acceptor-N-1

The groups are apart because acceptors serve on from what they have when the state's actors are away: the death of
one of these restarts no acceptor. They start in this order and stop in the reverse one, so that draining
connections keep the registry and the demo's upstream to the end, and everybody can see how many of them are left.

When listeners or the number of acceptors change, a new generation of acceptors joins as acceptors-2, and so on, and the
one before is retired (:mod:`symphony.api.generations`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from actors.acceptor import AcceptorSettings, run_acceptor
from actors.admin import NAME as ADMIN
from actors.admin import AdminSettings, run_admin
from actors.cpu_sampler import SamplerSettings, run_cpu_sampler
from actors.demo_upstream import DemoSettings, run_demo_upstream
from actors.rate_limiter import LimiterSettings, run_rate_limiter
from actors.route_registry import RegistrySettings, run_route_registry
from supervisor.spec import BackoffSpec, Birth, ChildSpec, GroupSpec, Strategy
from symphony.api.generation import Generation
from symphony.api.telemetry import TelemetrySource
from symphony.config.model import Admin
from symphony.host.activation import PassedSocket
from symphony.observe.counters import CounterPage
from symphony.protection.source_store import SourceStore
from symphony.routing.affinity import AffinityTable
from symphony.tls.context import BaseContext

# A child whose event loop says nothing for so long is hung: connections would wait for it without end.
HEARTBEAT_TIMEOUT_S = 2.0
# More than one child in a crash loop needs by its back-off: while a sibling serves, that must not take the proxy down.
INTENSITY = 90
PERIOD_S = 60.0
# A child that is killed from outside is back at once, and within a second however often that happens.
BACK_OFF = BackoffSpec(first_s=0.05, limit_s=0.8, reset_after_s=2.0)
# What an acceptor needs after the drain to end what is left and to say so.
_AFTER_DRAIN_S = 0.5
OBSERVERS = "observers"
ADMIN_SOCKET = "admin-http.sock"


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What stays the same in a tree for as long as it lives.

    `runtime_dir` is where its processes find each other, `public_dir` where everybody else finds the tree that serves.
    `heir_of` is the process whose place is taken, if any. `demo_path` is the demo upstream's socket, None for no demo;
    `passed` are the service manager's sockets; `base` is what lets sessions resume in every acceptor; `affinity` is
    where they remember clients together, and `sources` what they know of sources.
    """

    config_file: str
    overrides: Mapping[str, object]
    runtime_dir: str
    public_dir: str
    demo_path: str | None = None
    admin: Admin | None = None
    passed: tuple[PassedSocket, ...] = ()
    heir_of: int = 0
    base: BaseContext = field(default_factory=BaseContext)
    affinity: AffinityTable = field(default_factory=AffinityTable)
    sources: SourceStore = field(default_factory=SourceStore)


def compose_tree(
    blueprint: Blueprint, first: Generation, drain_timeout_s: float, *, observed: bool = True
) -> GroupSpec:
    """Describe every process of a tree that begins with the acceptors of `first`; with its observers if `observed`."""
    groups = [_state_group(blueprint)]
    if blueprint.demo_path is not None:
        settings = DemoSettings(blueprint.runtime_dir, blueprint.demo_path)
        demo = _child("demo-upstream", "demo-upstream", partial(run_demo_upstream, settings=settings))
        groups.append(_group("demo", (demo,)))
    if blueprint.admin is not None and observed:
        groups.append(admin_group(blueprint, blueprint.admin))
    groups.append(acceptor_group(blueprint, first, first.pages, drain_timeout_s))
    # A group that was given up has exceeded a generous limit: the whole tree then ends, and with a word why,
    # rather than going on without acceptors or without configuration.
    return GroupSpec("root", tuple(groups), Strategy.ONE_FOR_ONE, intensity=0)


def _state_group(blueprint: Blueprint) -> GroupSpec:
    runtime_dir = blueprint.runtime_dir
    registry_settings = RegistrySettings(
        runtime_dir, blueprint.config_file, blueprint.overrides, heir_of=blueprint.heir_of
    )
    registry = partial(run_route_registry, settings=registry_settings)
    limiter = partial(run_rate_limiter, settings=LimiterSettings(runtime_dir, sources=blueprint.sources))
    sampler = partial(run_cpu_sampler, settings=SamplerSettings(runtime_dir))
    return _group(
        "state",
        (
            _child("route-registry", "route-registry", registry, start_timeout_s=60.0),
            _child("rate-limiter", "rate-limiter", limiter),
            _child("cpu-sampler", "cpu-sampler", sampler),
        ),
    )


def admin_group(blueprint: Blueprint, admin: Admin) -> GroupSpec:
    """Describe the process of the admin interface."""
    runtime_dir = blueprint.runtime_dir
    settings = AdminSettings(
        runtime_dir,
        TelemetrySource(runtime_dir).gather,
        admin.socket_path or os.path.join(blueprint.public_dir, ADMIN_SOCKET),
        admin.host or "",
        admin.port or 0,
    )
    return _group(OBSERVERS, (_child(ADMIN, ADMIN, partial(run_admin, settings=settings)),))


def acceptor_group(
    blueprint: Blueprint, generation: Generation, pages: Sequence[CounterPage], drain_timeout_s: float
) -> GroupSpec:
    """Describe the processes of `generation`. `pages` are its own and then those of earlier ones that still run."""
    listeners = generation.listeners
    sockets = {listener.id: listener.sockets for listener in listeners}
    addresses = {listener.id: listener.address for listener in listeners}
    # All sockets of all acceptors: a sibling serves those of one that is gone until its successor is there.
    keep = tuple(sock.fileno() for listener in listeners for sock in listener.sockets)
    children = []
    for index, name in enumerate(generation.names):
        settings = AcceptorSettings(
            blueprint.runtime_dir,
            index,
            generation.names,
            sockets,
            addresses,
            blueprint.base,
            pages,
            tenure=generation.tenure,
            closed_upstreams=generation.closed_upstreams,
            closed_routes=generation.closed_routes,
            affinity=blueprint.affinity,
            sources=blueprint.sources,
        )
        run = partial(run_acceptor, settings=settings)
        shutdown_s = time_to_stop(drain_timeout_s)
        children.append(_child(name, "acceptor", run, shutdown_s=shutdown_s, start_timeout_s=60.0, keep=keep))
    return _group(generation.group, tuple(children), stop_together=True)


def time_to_stop(drain_timeout_s: float) -> float:
    """How long an acceptor may take to stop whose connections may take `drain_timeout_s`."""
    return drain_timeout_s + _AFTER_DRAIN_S


def _child(
    name: str,
    kind: str,
    run: Callable[[Birth], None],
    *,
    shutdown_s: float = 5.0,
    start_timeout_s: float = 10.0,
    keep: tuple[int, ...] = (),
) -> ChildSpec:
    return ChildSpec(
        name,
        kind,
        run,
        title=f"symphony: {name}",
        shutdown_s=shutdown_s,
        start_timeout_s=start_timeout_s,
        heartbeat_timeout_s=HEARTBEAT_TIMEOUT_S,
        keep_fds=keep,
    )


def _group(name: str, children: tuple[ChildSpec, ...], *, stop_together: bool = False) -> GroupSpec:
    return GroupSpec(
        name,
        children,
        Strategy.ONE_FOR_ONE,
        intensity=INTENSITY,
        period_s=PERIOD_S,
        backoff=BACK_OFF,
        stop_together=stop_together,
    )
