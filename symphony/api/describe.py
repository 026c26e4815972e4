"""Puts together what the proxy as a whole is doing, from what its supervisor's process knows by itself."""

from __future__ import annotations

from symphony.api.generations import Generations
from symphony.api.listening import BoundListener
from symphony.messages.control import LeftOver, ListenerDescription, ServiceDescription
from symphony.observe.books import Books
from symphony.observe.counters import ACCEPTED, ACTIVE, BYTES_DOWN, BYTES_UP, Totals

OPEN = "open"
CLOSING = "closing"


def describe_service(
    generations: Generations, books: Books, left: tuple[LeftOver, ...] = ()
) -> ServiceDescription:
    """Describe it as it is at this moment; `left` are the supervisors before this one."""
    totals = books.totals()
    listeners = {listener.id: (listener, OPEN) for listener in generations.current.listeners}
    for older in generations.older:
        for listener in older.listeners:
            listeners.setdefault(listener.id, (listener, CLOSING))
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
    )


def _describe(listener: BoundListener, state: str, totals: Totals) -> ListenerDescription:
    accepted, active, *_ = totals.of_listener(listener.id)
    return ListenerDescription(
        listener.id, listener.address, state, active, accepted, totals.blocked(listener.id)
    )
