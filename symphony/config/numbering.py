"""Numbers for upstreams and routes, so that every acceptor counts for them at the same place in shared memory.

An upstream (by its label) and a route (by its name) keep their number for as long as they are configured, over reloads
and over restarts of the registry: the snapshot carries the numbers, and the next one is numbered from it. A number that
became free goes to the end of a queue, and is taken again only when all others have been used: acceptors that still
count for its former owner then notice by the owner's mark (:mod:`symphony.observe.record_area`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import msgspec

from symphony.config.snapshot import Numbering, Snapshot

UPSTREAM_CAPACITY = 32_768
ROUTE_CAPACITY = 131_072
"""What is beyond has no number (-1): each acceptor counts for it alone, and nobody adds that up."""


def number_snapshot(
    snapshot: Snapshot,
    previous: Snapshot | None,
    upstream_capacity: int = UPSTREAM_CAPACITY,
    route_capacity: int = ROUTE_CAPACITY,
) -> Snapshot:
    """Return `snapshot` with the numbers of `previous` and, for what is new in it, further ones."""
    labels = [tuple(upstream.label for upstream in route.upstreams) for route in snapshot.routes]
    upstreams, upstream_numbering = _assign(
        (label for row in labels for label in row),
        upstream_numbers(previous) if previous is not None else {},
        previous.upstream_numbering if previous is not None else Numbering(),
        upstream_capacity,
    )
    routes, route_numbering = _assign(
        (route.name for route in snapshot.routes),
        {route.name: route.number for route in previous.routes} if previous is not None else {},
        previous.route_numbering if previous is not None else Numbering(),
        route_capacity,
    )
    replace = msgspec.structs.replace
    return replace(
        snapshot,
        routes=tuple(
            replace(
                route, number=routes[route.name], upstream_numbers=tuple(upstreams[label] for label in row)
            )
            for route, row in zip(snapshot.routes, labels, strict=True)
        ),
        upstream_numbering=upstream_numbering,
        route_numbering=route_numbering,
    )


def upstream_numbers(snapshot: Snapshot) -> dict[str, int]:
    """The number of every upstream in a snapshot, by its label."""
    return {
        upstream.label: number
        for route in snapshot.routes
        for upstream, number in zip(route.upstreams, route.upstream_numbers, strict=False)
    }


def _assign(
    keys: Iterable[str], known: Mapping[str, int], numbering: Numbering, capacity: int
) -> tuple[dict[str, int], Numbering]:
    """Return the number of each of `keys`, and what is left for the next ones."""
    following = numbering.following
    freed = deque(numbering.freed)
    numbers: dict[str, int] = {}
    for key in keys:
        if key in numbers:
            continue
        number = known.get(key, -1)
        if number < 0:
            if following < capacity:
                number = following
                following += 1
            elif freed:
                number = freed.popleft()
        numbers[key] = number
    freed.extend(sorted(number for key, number in known.items() if number >= 0 and key not in numbers))
    return numbers, Numbering(following, tuple(freed))
