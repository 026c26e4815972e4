"""What a reload changes: a pure function from what is served and what was loaded to what is served next.

The rules:

- Anything wrong outside single routes changes nothing.
- A broken route stays as it was last served; one that was never served is left out. All others are applied.
- A route whose name cannot be read may be any of those that the file no longer names, so all of these stay.
- Listeners are bound at the start. The set of addresses, and the number of workers, stay as they are until a
  restart, and a warning says so; everything else about a listener that is in the file still is applied.
- On a listener that is no longer in the file, a route takes its own certificate and client authority; what it
  leaves to the listener stays as it was for this route, and a route that never got it there is not served there.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from symphony.config.model import Config
from symphony.config.numbering import number_snapshot
from symphony.config.problem import Problem, Severity
from symphony.config.resolve import Loaded
from symphony.config.snapshot import RouteEntry, Snapshot, TlsPolicy, listed_networks


class Merged(Struct, frozen=True):
    """What comes of a reload.

    `snapshot` is what to serve from now on, its version one higher; None when nothing changes. `kept` names the
    routes that stay at their last good version, `left_out` those that are broken and were never served.
    """

    snapshot: Snapshot | None
    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    problems: tuple[Problem, ...]


def merge(previous: Snapshot, loaded: Loaded, *, started: Config | None = None) -> Merged:
    """Combine the snapshot that is served with what a file says now, by the rules above.

    `started` is the configuration that the processes were started with; given it, keys that only a restart can
    apply are warned of.
    """
    new, config = loaded.snapshot, loaded.config
    if new is None or config is None:
        return Merged(None, (), (), loaded.problems)
    warnings = [*_listener_warnings(previous, new), *(_restart_warnings(started, config) if started else ())]
    broken = {name for name in loaded.broken if name is not None}
    named = {route.sni for route in new.routes}
    if None in loaded.broken:
        kept = [route for route in previous.routes if route.sni not in named]
        if any(route.sni not in broken for route in kept):
            text = "the name of a broken route cannot be read, so no route is removed by this reload"
            warnings.append(Problem("routes", text, Severity.WARNING))
    else:
        kept = [route for route in previous.routes if route.sni in broken]
    kept_names = {route.sni for route in kept}
    merged = number_snapshot(_Combination(previous, loaded, new).build(kept), previous)
    return Merged(
        None if merged == previous else msgspec.structs.replace(merged, version=previous.version + 1),
        tuple(route.sni for route in kept),
        tuple(sorted(broken - kept_names)),
        (*loaded.problems, *warnings),
    )


class _Combination:
    """Puts routes of two snapshots, each with its own policy numbers and listeners, into one."""

    def __init__(self, previous: Snapshot, loaded: Loaded, new: Snapshot) -> None:
        self._previous = previous
        self._new = new
        self._own = dict(zip((route.sni for route in new.routes), loaded.own_policies, strict=True))
        column_of = {listener.id: column for column, listener in enumerate(new.listeners)}
        # For each running listener its column in the new snapshot; None where the file no longer has it.
        self._columns = [column_of.get(listener.id) for listener in previous.listeners]
        self._policies: dict[TlsPolicy, int] = {}

    def build(self, kept: Iterable[RouteEntry]) -> Snapshot:
        """Return the combination, with the previous version, so that it can be compared.

        Routes keep their order, and new ones follow: a file that only lists them otherwise changes nothing.
        """
        former = {route.sni: route for route in self._previous.routes}
        next_ = {route.sni: self._renew(route, former.get(route.sni)) for route in self._new.routes}
        next_.update((route.sni, self._keep(route)) for route in kept)
        order = [name for name in former if name in next_]
        order.extend(name for name in next_ if name not in former)
        routes = self._renumber([next_[name] for name in order])
        policies = tuple(self._policies)
        identities = {**self._previous.identities, **self._new.identities}
        authorities = {**self._previous.client_authorities, **self._new.client_authorities}
        networks = {**self._previous.networks, **self._new.networks}
        listeners = tuple(
            running if column is None else self._new.listeners[column]
            for running, column in zip(self._previous.listeners, self._columns, strict=True)
        )
        return Snapshot(
            version=self._previous.version,
            read_buffer_size=self._new.read_buffer_size,
            drain_timeout_ms=self._new.drain_timeout_ms,
            access_log_rate=self._new.access_log_rate,
            listeners=listeners,
            routes=routes,
            policies=policies,
            identities={
                policy.identity: identities[policy.identity] for policy in policies if policy.identity
            },
            client_authorities={
                policy.client_authority: authorities[policy.client_authority]
                for policy in policies
                if policy.client_authority
            },
            networks={digest: networks[digest] for digest in listed_networks(listeners)},
        )

    def _renew(
        self, route: RouteEntry, former: RouteEntry | None
    ) -> tuple[RouteEntry, list[TlsPolicy | None]]:
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
        own = self._own[route.sni]
        before = None if former is None else _policy(self._previous, former, position)
        if own.identity and own.client_authority:
            return own
        if before is None:
            # The listener may demand client certificates; without knowing, the route must not be open there.
            return None
        return TlsPolicy(
            own.identity or before.identity, own.client_authority or before.client_authority, own.http2
        )

    def _keep(self, route: RouteEntry) -> tuple[RouteEntry, list[TlsPolicy | None]]:
        columns = range(len(self._previous.listeners)) if route.policies else ()
        return route, [_policy(self._previous, route, column) for column in columns]

    def _renumber(self, routes: list[tuple[RouteEntry, list[TlsPolicy | None]]]) -> tuple[RouteEntry, ...]:
        result: list[RouteEntry] = []
        for route, policies in routes:
            numbers = tuple(
                -1 if policy is None else self._policies.setdefault(policy, len(self._policies))
                for policy in policies
            )
            result.append(
                route if numbers == route.policies else msgspec.structs.replace(route, policies=numbers)
            )
        return tuple(result)


def _policy(snapshot: Snapshot, route: RouteEntry, column: int) -> TlsPolicy | None:
    if not route.policies or route.policies[column] == -1:
        return None
    return snapshot.policies[route.policies[column]]


def _listener_warnings(previous: Snapshot, new: Snapshot) -> list[Problem]:
    running = {listener.id for listener in previous.listeners}
    wanted = {listener.id for listener in new.listeners}
    warnings = [
        Problem(
            f"listeners[{index}]", f"{listener.id} is new: it is bound at the next restart", Severity.WARNING
        )
        for index, listener in enumerate(new.listeners)
        if listener.id not in running
    ]
    warnings.extend(
        Problem(
            "listeners",
            f"{listener.id} is no longer there: it stays open until the next restart",
            Severity.WARNING,
        )
        for listener in previous.listeners
        if listener.id not in wanted
    )
    return warnings


def _restart_warnings(started: Config, config: Config) -> list[Problem]:
    return [
        Problem(key, "has changed: that takes effect at the next restart", Severity.WARNING)
        for key in ("workers", "runtime_dir", "core_dumps")
        if getattr(started, key) != getattr(config, key)
    ]
