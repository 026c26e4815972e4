"""Puts together what the proxy as a whole is doing, from what its supervisor's process knows by itself."""

from __future__ import annotations

from symphony.api.generations import Generations
from symphony.api.listening import BoundListener
from symphony.messages.control import LeftOver, ListenerDescription, ServiceDescription
from symphony.messages.totals import GONE, AcceptorCounts, LimitCounts, ListenerCounts, ServiceTotals
from symphony.observe.books import Books
from symphony.observe.counters import (
    ACCEPTED,
    ACTIVE,
    BYTES_DOWN,
    BYTES_UP,
    CONNECT_TIME,
    DECIDED_ALONE,
    HANDSHAKE_TIME,
    HANDSHAKES,
    LISTENER_DOWN,
    LISTENER_HANDSHAKES,
    LISTENER_UP,
    RESUMED,
    ROUTE_DECIDED_ALONE,
    ROUTE_DENIED,
    Totals,
)
from symphony.observe.logs import lines_lost

OPEN = "open"
CLOSING = "closing"
CLOSED = "closed"
DRAINING = "draining"
DRAINED = "drained"


def describe_service(
    generations: Generations, books: Books, left: tuple[LeftOver, ...] = (), *, stopping: bool = False
) -> ServiceDescription:
    """Describe it as it is at this moment; `left` are the supervisors before this one."""
    totals = books.totals()
    listeners = _listeners(generations, stopping=stopping)
    errors = sorted(totals.errors().items(), key=lambda item: -item[1])
    return ServiceDescription(
        listeners=tuple(_describe(listener, state, totals) for listener, state in listeners.values()),
        active=totals.values[ACTIVE],
        accepted=totals.values[ACCEPTED],
        bytes_up=totals.values[BYTES_UP],
        bytes_down=totals.values[BYTES_DOWN],
        errors=dict(errors),
        draining=tuple(name for older in generations.older for name in older.names),
        left=left,
        stopping=stopping,
    )


def _describe(listener: BoundListener, state: str, totals: Totals) -> ListenerDescription:
    accepted, active, *_ = totals.of_listener(listener.id)
    if state == DRAINING and not active:
        state = DRAINED
    return ListenerDescription(
        listener.id, listener.address, state, active, accepted, totals.blocked(listener.id)
    )


def describe_totals(generations: Generations, books: Books) -> ServiceTotals:
    """All that was counted; routes and upstreams are not known here."""
    parts = {GONE: books.closed}
    for each in (*generations.older, generations.current):
        for name, page in zip(each.names, each.pages, strict=True):
            part = parts[name] = Totals()
            part.add(page)
    # Added up from the very parts that are told, which may have grown by now.
    totals = Totals()
    for part in parts.values():
        totals.add(part)
    values = totals.values
    listeners = _listeners(generations)
    return ServiceTotals(
        accepted=values[ACCEPTED],
        active=values[ACTIVE],
        bytes_up=values[BYTES_UP],
        bytes_down=values[BYTES_DOWN],
        handshakes=values[HANDSHAKES],
        resumed=values[RESUMED],
        errors=totals.errors(),
        listeners=tuple(
            _count(id, *_place(listeners, id), totals) for id in {**listeners, **totals.listeners}
        ),
        suites=totals.suites(),
        handshake_time=totals.histogram(HANDSHAKE_TIME),
        connect_time=totals.histogram(CONNECT_TIME),
        acceptors=tuple(_part(name, part, name in generations.current.names) for name, part in parts.items()),
        limits=LimitCounts(values[DECIDED_ALONE], values[ROUTE_DECIDED_ALONE], values[ROUTE_DENIED]),
        log_lines_lost=lines_lost(),
    )


Listeners = dict[str, tuple[BoundListener, str]]


def _listeners(generations: Generations, *, stopping: bool = False) -> Listeners:
    """Those that somebody serves or has connections of, and their state, by id."""
    listeners = {
        listener.id: (listener, DRAINING if stopping or generations.drains(listener) else OPEN)
        for listener in generations.current.listeners
    }
    for older in generations.older:
        for listener in older.listeners:
            listeners.setdefault(listener.id, (listener, CLOSING))
    return listeners


def _place(listeners: Listeners, id: str) -> tuple[str, str]:
    """A listener's address and state."""
    if id not in listeners:
        return "", CLOSED
    listener, state = listeners[id]
    return listener.address, state


def _count(id: str, address: str, state: str, totals: Totals) -> ListenerCounts:
    found = totals.of_listener(id)
    return ListenerCounts(
        id=id,
        address=address,
        accepted=found[0],
        active=found[1],
        blocked=totals.blocked(id),
        state=state,
        handshakes=found[LISTENER_HANDSHAKES],
        bytes_up=found[LISTENER_UP],
        bytes_down=found[LISTENER_DOWN],
        failed=totals.failed(id),
    )


def _part(name: str, totals: Totals, serving: bool) -> AcceptorCounts:
    values = totals.values
    return AcceptorCounts(
        name,
        values[ACCEPTED],
        values[ACTIVE],
        values[BYTES_UP],
        values[BYTES_DOWN],
        values[HANDSHAKES],
        sum(totals.errors().values()),
        serving,
    )
