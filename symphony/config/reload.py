"""What a reload changes: a pure function from what is served and what was loaded to what is served next.

The rules:

- Anything wrong outside single routes changes nothing.
- A broken route stays as it was last served; one that was never served is left out. All others are applied.
- A route whose name cannot be read may be any of those that the file no longer names, so all of these stay.
- A listener that is new in the file is there at once, for acceptors that are about to serve it. One that is no longer
  in the file stays, since connections still come there: until :func:`keep_listeners` is told that nobody serves it.
- On a listener that is no longer in the file, a route takes its own certificate and client authority; what it
  leaves to the listener stays as it was for this route, and a route that never got it there is not served there.
- A broken route is not served on listeners that are new.
- Which route is which is told by its name and its listeners. A broken one stays only where the file gives its name to
  no other, and what is no longer in the file at all is not served any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec
from msgspec import Struct

from symphony.config.loaded import Loaded
from symphony.config.model import Config
from symphony.config.numbering import number_snapshot
from symphony.config.override import still_meant
from symphony.config.problem import Problem, Severity
from symphony.config.route_names import Where
from symphony.config.snapshot import (
    ListenerEntry,
    RouteEntry,
    Snapshot,
    TlsPolicy,
    listed_networks,
    route_name,
)
from symphony.config.topology import Topology, topology_of


class Merged(Struct, frozen=True):
    """What comes of a reload.

    `snapshot` is what to serve from now on, its version one higher; None when nothing changes. `kept` names the
    routes that stay at their last good version, `left_out` those that are broken and were never served. `topology` is
    what the file wants of processes and ports, None when it cannot be used.
    """

    snapshot: Snapshot | None
    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    problems: tuple[Problem, ...]
    topology: Topology | None = None


def merge(previous: Snapshot, loaded: Loaded, *, started: Config | None = None) -> Merged:
    """Combine the snapshot that is served with what a file says now, by the rules above.

    `started` is the configuration that the processes were started with; given it, keys that only a restart can
    apply are warned of.
    """
    new, config = loaded.snapshot, loaded.config
    if new is None or config is None:
        return Merged(None, (), (), loaded.problems)
    warnings = _restart_warnings(started, config) if started is not None else []
    broken = [name for name in loaded.broken if name is not None]
    kept, some_unnamed = _kept(previous, new, broken, everything=None in loaded.broken)
    if some_unnamed:
        text = "the name of a broken route cannot be read, so no route is removed by this reload"
        warnings.append(Problem("routes", text, Severity.WARNING))
    kept_names = {route.sni for route in kept}
    merged = number_snapshot(_Combination(previous, loaded, new).build(kept), previous)
    merged = msgspec.structs.replace(merged, overrides=still_meant(previous.overrides, merged))
    return Merged(
        None if merged == previous else msgspec.structs.replace(merged, version=previous.version + 1),
        tuple(route.name for route in kept),
        tuple(sorted({route_name(sni, where) for sni, where in broken if sni not in kept_names})),
        (*loaded.problems, *warnings),
        topology_of(config, new),
    )


def _kept(
    previous: Snapshot, new: Snapshot, broken: list[tuple[str, Where]], *, everything: bool
) -> tuple[list[RouteEntry], bool]:
    """The routes of `previous` that stay as they are, and whether any stays only because of `everything`.

    With `everything`, each of them may be one that is broken.
    """
    if not broken and not everything:
        return [], False
    others: dict[str, list[RouteEntry]] = {}
    for route in new.routes:
        others.setdefault(route.sni, []).append(route)
    meant: dict[str, list[Where]] = {}
    for sni, where in broken:
        meant.setdefault(sni, []).append(where)
    kept: list[RouteEntry] = []
    some_unnamed = False
    for route in previous.routes:
        named = any(_meet(route.listeners, where) for where in meant.get(route.sni, ()))
        if not named and not everything:
            continue
        left = _where_free(route, others.get(route.sni, ()), previous.listeners)
        if left is not None:
            kept.append(left)
            some_unnamed = some_unnamed or not named
    return kept, some_unnamed


def _meet(one: Where, other: Where) -> bool:
    return not one or not other or not set(one).isdisjoint(other)


def _where_free(
    route: RouteEntry, others: Sequence[RouteEntry], listeners: Iterable[ListenerEntry]
) -> RouteEntry | None:
    """`route` on those of its listeners that have none of `others`, which have its name; None where that is nowhere."""
    if not others:
        return route
    if any(not other.listeners for other in others):
        return None
    taken = {id for other in others for id in other.listeners}
    mine = route.listeners or tuple(listener.id for listener in listeners)
    free = tuple(id for id in mine if id not in taken)
    return msgspec.structs.replace(route, listeners=free) if free else None


def keep_listeners(snapshot: Snapshot, ids: Collection[str]) -> Snapshot:
    """Return `snapshot`, in its version, without the listeners that are not among `ids`, nor what only they needed."""
    columns = [column for column, listener in enumerate(snapshot.listeners) if listener.id in ids]
    if len(columns) == len(snapshot.listeners):
        return snapshot
    routes: list[_Routed] = [
        (route, [_policy(snapshot, route, column) for column in columns] if route.policies else [])
        for route in snapshot.routes
    ]
    return _assemble(snapshot, snapshot, [snapshot.listeners[column] for column in columns], routes)


_Routed = tuple[RouteEntry, list[TlsPolicy | None]]
"""A route, with its policy on each listener."""


class _Combination:
    """Puts routes of two snapshots, each with its own policy numbers and listeners, into one."""

    def __init__(self, previous: Snapshot, loaded: Loaded, new: Snapshot) -> None:
        self._previous = previous
        self._new = new
        self._own = dict(zip((route.name for route in new.routes), loaded.own_policies, strict=True))
        column_of = {listener.id: column for column, listener in enumerate(new.listeners)}
        former = {listener.id for listener in previous.listeners}
        added = [column for column, listener in enumerate(new.listeners) if listener.id not in former]
        # For each listener its column in the new snapshot; None where the file no longer has it.
        self._columns = [*(column_of.get(listener.id) for listener in previous.listeners), *added]

    def build(self, kept: Iterable[RouteEntry]) -> Snapshot:
        """Return the combination, with the previous version, so that it can be compared.

        Routes keep their order, and new ones follow: a file that only lists them otherwise changes nothing.
        """
        former = {route.name: route for route in self._previous.routes}
        next_ = {route.name: self._renew(route, former.get(route.name)) for route in self._new.routes}
        next_.update((route.name, self._keep(route)) for route in kept)
        order = [name for name in former if name in next_]
        order.extend(name for name in next_ if name not in former)
        listeners = [
            self._previous.listeners[position] if column is None else self._new.listeners[column]
            for position, column in enumerate(self._columns)
        ]
        return _assemble(self._previous, self._new, listeners, [next_[name] for name in order])

    def _renew(self, route: RouteEntry, former: RouteEntry | None) -> _Routed:
        if not route.policies:
            return route, []
        policies: list[TlsPolicy | None] = []
        for position, column in enumerate(self._columns):
            if column is None:
                policies.append(self._on_removed(route, former, position))
            else:
                policies.append(_policy(self._new, route, column))
        return route, policies

    def _on_removed(self, route: RouteEntry, former: RouteEntry | None, position: int) -> TlsPolicy | None:
        own = self._own[route.name]
        if route.listeners and self._previous.listeners[position].id not in route.listeners:
            return None
        before = None if former is None else _policy(self._previous, former, position)
        if own.identity and own.client_authority:
            return own
        if before is None:
            # The listener may demand client certificates; without knowing, the route must not be open there.
            return None
        return TlsPolicy(
            own.identity or before.identity, own.client_authority or before.client_authority, own.http2
        )

    def _keep(self, route: RouteEntry) -> _Routed:
        if not route.policies:
            return route, []
        before = len(self._previous.listeners)
        policies = [
            _policy(self._previous, route, column)
            if not route.listeners or self._previous.listeners[column].id in route.listeners
            else None
            for column in range(before)
        ]
        return route, [*policies, *(None for _ in self._columns[before:])]


def _assemble(
    previous: Snapshot, new: Snapshot, listeners: Sequence[ListenerEntry], routed: Iterable[_Routed]
) -> Snapshot:
    """Number the policies of `routed` and take along what they name from either snapshot, and nothing else."""
    policies: dict[TlsPolicy, int] = {}
    routes: list[RouteEntry] = []
    for route, wanted in routed:
        numbers = tuple(
            -1 if policy is None else policies.setdefault(policy, len(policies)) for policy in wanted
        )
        routes.append(
            route if numbers == route.policies else msgspec.structs.replace(route, policies=numbers)
        )
    identities = {**previous.identities, **new.identities}
    authorities = {**previous.client_authorities, **new.client_authorities}
    networks = {**previous.networks, **new.networks}
    return msgspec.structs.replace(
        new,
        version=previous.version,
        listeners=tuple(listeners),
        routes=tuple(routes),
        policies=tuple(policies),
        identities={policy.identity: identities[policy.identity] for policy in policies if policy.identity},
        client_authorities={
            policy.client_authority: authorities[policy.client_authority]
            for policy in policies
            if policy.client_authority
        },
        networks={digest: networks[digest] for digest in listed_networks(listeners)},
    )


def _policy(snapshot: Snapshot, route: RouteEntry, column: int) -> TlsPolicy | None:
    if not route.policies or route.policies[column] == -1:
        return None
    return snapshot.policies[route.policies[column]]


def _restart_warnings(started: Config, config: Config) -> list[Problem]:
    return [
        Problem(key, "has changed: that takes effect at the next restart", Severity.WARNING)
        for key in ("runtime_dir", "core_dumps", "user", "group", "admin")
        if getattr(started, key) != getattr(config, key)
    ]
