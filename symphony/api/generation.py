"""A generation of acceptors: those that are started together for one set of listeners, and retired together."""

from __future__ import annotations

from dataclasses import dataclass

from symphony.api.listening import BoundListener
from symphony.connection.ids import ACCEPTOR_PREFIX
from symphony.connection.tenure import Stage, Tenure
from symphony.observe.books import Books
from symphony.observe.counters import CounterPage
from symphony.observe.record_area import RecordArea


@dataclass(frozen=True, slots=True)
class Generation:
    """`names` and `pages` have one entry per acceptor. `group` is its name in the supervision tree.

    `closed_upstreams` and `closed_routes` have what acceptors that are gone for good have counted.
    """

    number: int
    names: tuple[str, ...]
    listeners: tuple[BoundListener, ...]
    pages: tuple[CounterPage, ...]
    tenure: Tenure
    closed_upstreams: RecordArea
    closed_routes: RecordArea

    @property
    def group(self) -> str:
        """Its name in the supervision tree."""
        return f"acceptors-{self.number}"


def new_generation(
    number: int,
    first_acceptor: int,
    listeners: tuple[BoundListener, ...],
    acceptors: int,
    books: Books,
    stage: Stage,
) -> Generation:
    """Prepare a generation whose acceptors are numbered from `first_acceptor` on.

    No two acceptors of one tree may have the same number, whether they live at the same time or not: names are those
    of mailboxes, and whoever adds up what they tell knows them by their names.
    """
    names = tuple(f"{ACCEPTOR_PREFIX}{first_acceptor + index}" for index in range(acceptors))
    ids = [listener.id for listener in listeners]
    pages = books.open(ids, acceptors)
    tenure = Tenure(acceptors, stage)
    return Generation(number, names, listeners, pages, tenure, books.closed_upstreams, books.closed_routes)
