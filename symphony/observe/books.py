"""The totals of all acceptors of a tree, of those too that are gone for good.

Kept in the process that makes the acceptors' pages. Read there, they are of one moment, need no answer from anybody,
and never go back, whichever acceptors come and go.
"""

from __future__ import annotations

from collections.abc import Sequence

from symphony.observe.counters import CounterPage, Totals
from symphony.observe.record_area import route_area, upstream_area


class Books:
    """All pages that are in use, and what stood in those that no longer are.

    `closed` has the totals of the latter, added up, and `closed_routes` and `closed_upstreams` their records.
    """

    def __init__(self) -> None:
        self._pages: list[CounterPage] = []
        self.closed = Totals()
        self.closed_routes = route_area()
        self.closed_upstreams = upstream_area()

    @property
    def pages(self) -> tuple[CounterPage, ...]:
        """Those in use, oldest first."""
        return tuple(self._pages)

    def open(self, listener_ids: Sequence[str], acceptors: int) -> tuple[CounterPage, ...]:
        """Make a page for each of `acceptors` processes that are about to be forked."""
        pages = tuple(CounterPage(listener_ids) for _ in range(acceptors))
        self._pages.extend(pages)
        return pages

    def close(self, pages: Sequence[CounterPage]) -> None:
        """Carry over what stands in `pages`, whose processes are gone; their gauges are set to zero."""
        for page in pages:
            page.forget_active()
            page.holds.clear_if_left()
            self.closed.add(page)
            self.closed_routes.take_over(page.routes)
            self.closed_upstreams.take_over(page.upstreams)
            self._pages.remove(page)

    def totals(self) -> Totals:
        """Everything added up."""
        totals = Totals()
        totals.add(self.closed)
        for page in self._pages:
            totals.add(page)
        return totals
