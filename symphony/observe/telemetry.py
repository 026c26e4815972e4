"""An instance at one moment, in numbers: what metrics, the dashboard and the programming interface are made from.

Totals count since the tree started and never go back: they are kept in shared memory that outlives any acceptor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import Struct, structs

from symphony.messages.totals import ListenerCounts, PageTotals
from symphony.observe.histogram import Histogram
from symphony.observe.records import Totals

NO_TOTALS = Totals._make([0] * len(Totals._fields))


class ActorTelemetry(Struct, frozen=True):
    """One process. `state` is the supervisor's word; `depth` is how many requests wait in its mailbox.

    `cpu_s` is what it has used since it began, and `rss_bytes` its memory, shared pages included; both are 0 for one
    that is not there or may not be looked at.
    """

    name: str
    kind: str
    group: str
    pid: int
    state: str
    restarts: int
    uptime_s: float
    depth: int
    last_exit: str
    cpu_s: float = 0.0
    rss_bytes: int = 0


class Telemetry(Struct, frozen=True):
    """Everything, as of `at` (seconds since the epoch).

    `applied` maps each acceptor to the configuration version that it serves. `totals` has the sums over all acceptors.
    `silent` names the actors that did not answer in time: what they alone know is missing.
    """

    at: float
    version: str
    pid: int
    uptime_s: float
    config_file: str
    config_version: int
    routes: int
    problems: int
    applied: Mapping[str, int]
    actors: tuple[ActorTelemetry, ...]
    totals: PageTotals
    held: int
    silent: tuple[str, ...]


def at_rest(page: PageTotals) -> PageTotals:
    """The page of an acceptor that is away: its totals stand, and it holds no connection."""
    return structs.replace(
        page,
        active=0,
        listeners=tuple(structs.replace(listener, active=0) for listener in page.listeners),
        routes={key: totals._replace(active=0) for key, totals in page.routes.items()},
        upstreams={key: totals._replace(active=0) for key, totals in page.upstreams.items()},
    )


def add_pages(pages: Iterable[PageTotals]) -> PageTotals:
    """The sum of the pages of different acceptors."""
    found = list(pages)
    return PageTotals(
        name="",
        accepted=sum(page.accepted for page in found),
        active=sum(page.active for page in found),
        bytes_up=sum(page.bytes_up for page in found),
        bytes_down=sum(page.bytes_down for page in found),
        handshakes=sum(page.handshakes for page in found),
        resumed=sum(page.resumed for page in found),
        errors=_add_counts(page.errors for page in found),
        listeners=_add_listeners(listener for page in found for listener in page.listeners),
        suites=_add_suites(page.suites for page in found),
        handshake_time=sum((page.handshake_time for page in found), Histogram()),
        connect_time=sum((page.connect_time for page in found), Histogram()),
        routes=_add_totals(page.routes for page in found),
        upstreams=_add_totals(page.upstreams for page in found),
    )


def _add_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    added: Counter[str] = Counter()
    for each in counts:
        added.update(each)
    return dict(added)


def _add_listeners(listeners: Iterable[ListenerCounts]) -> tuple[ListenerCounts, ...]:
    added: dict[str, ListenerCounts] = {}
    for one in listeners:
        before = added.get(one.id)
        if before is not None:
            one = ListenerCounts(
                one.id,
                one.address,
                before.accepted + one.accepted,
                before.active + one.active,
                _add_counts((before.blocked, one.blocked)),
            )
        added[one.id] = one
    return tuple(added.values())


def _add_suites(suites: Iterable[Mapping[str, tuple[int, int]]]) -> dict[str, tuple[int, int]]:
    added: dict[str, tuple[int, int]] = {}
    for each in suites:
        for name, (full, resumed) in each.items():
            before = added.get(name, (0, 0))
            added[name] = (before[0] + full, before[1] + resumed)
    return added


def _add_totals(parts: Iterable[Mapping[str, Totals]]) -> dict[str, Totals]:
    added: dict[str, Totals] = {}
    for each in parts:
        for key, totals in each.items():
            before = added.get(key, NO_TOTALS)
            added[key] = Totals._make(a + b for a, b in zip(before, totals, strict=True))
    return added
