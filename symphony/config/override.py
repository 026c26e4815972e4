"""What an operator says of upstreams, apart from the configuration file.

It is part of the snapshot: so it reaches every acceptor as one with the routes that it is about, is there before an
acceptor that starts takes its first connection, and survives the registry, which keeps the snapshot on disk.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from symphony.config.model import UpstreamMode
from symphony.config.server_name import DEFAULT_ROUTE
from symphony.config.snapshot import Snapshot, UpstreamOverride
from symphony.config.wording import quoted

EVERY_ROUTE = "*"


class NoSuchUpstream(ValueError):
    """No route or upstream has this name; the text says which there are."""


def still_meant(overrides: Iterable[UpstreamOverride], snapshot: Snapshot) -> tuple[UpstreamOverride, ...]:
    """Those of `overrides` whose route has still their upstream."""
    wanted = tuple(overrides)
    names = {override.route for override in wanted}
    there = {
        (route.name, upstream.label)
        for route in snapshot.routes
        if route.name in names
        for upstream in route.upstreams
    }
    return tuple(override for override in wanted if (override.route, override.upstream) in there)


def override(
    snapshot: Snapshot, route: str, upstream: str, mode: UpstreamMode
) -> tuple[Snapshot, tuple[str, ...]]:
    """Return `snapshot`, in its version, with what an operator says, and the names of the routes it is about.

    `route` is a route's name, "*" for every route that has the upstream, a server name for all routes of that name,
    whichever listeners have them, or "default" for the default route unless a route is called so. Raises
    :class:`NoSuchUpstream`.
    """
    routes = _routes_meant(snapshot, route, upstream)
    others = [
        known for known in snapshot.overrides if known.upstream != upstream or known.route not in routes
    ]
    if mode != "ready":
        others.extend(UpstreamOverride(name, upstream, mode) for name in routes)
    ordered = tuple(sorted(others, key=lambda known: (known.route, known.upstream)))
    return msgspec.structs.replace(snapshot, overrides=ordered), routes


def _routes_meant(snapshot: Snapshot, route: str, upstream: str) -> tuple[str, ...]:
    if route == EVERY_ROUTE:
        having = tuple(
            entry.name
            for entry in snapshot.routes
            if any(known.label == upstream for known in entry.upstreams)
        )
        if not having:
            raise NoSuchUpstream(f"no route has the upstream {quoted(upstream)}")
        return having
    found = (
        [entry for entry in snapshot.routes if entry.name == route]
        or [entry for entry in snapshot.routes if entry.sni == route]
        or [entry for entry in snapshot.routes if route == DEFAULT_ROUTE and not entry.sni]
    )
    if not found:
        raise NoSuchUpstream(f"there is no route {quoted(route)}")
    labels = {entry.name: [known.label for known in entry.upstreams] for entry in found}
    having = tuple(name for name, known in labels.items() if upstream in known)
    if not having:
        others = ", ".join(dict.fromkeys(label for known in labels.values() for label in known)) or "none"
        raise NoSuchUpstream(f"route {quoted(route)} has no upstream {quoted(upstream)}; it has {others}")
    return having
