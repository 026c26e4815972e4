"""What is counted: the parts of two mailboxes that metrics and the dashboard ask.

The process that makes the acceptors' pages has the totals of all of them (:class:`ServiceTotals`). It knows no route:
those of routes and upstreams are told by any one acceptor (:class:`RecordsDescription`).
"""

from __future__ import annotations

from msgspec import Struct

from symphony.observe.histogram import Histogram
from symphony.observe.record_totals import Totals

GONE = "gone"
"""What all acceptors that are gone for good have counted goes by this name."""


class DescribeTotals(Struct, frozen=True, array_like=True, tag=True):
    """Ask for :class:`TotalsDescription`."""


class ListenerCounts(Struct, frozen=True, array_like=True):
    """One listener. `failed` maps a reason to how many connections it ended early, `blocked` those that were refused.

    `state` is ``open``, ``closing`` when it is no longer configured and still has connections, or ``closed``: then its
    totals stand, and it has no address.
    """

    id: str
    address: str
    accepted: int
    active: int
    blocked: dict[str, int]
    state: str = "open"
    handshakes: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    failed: dict[str, int] = {}


class AcceptorCounts(Struct, frozen=True, array_like=True):
    """One acceptor's part, over all its lives, or that of all who are :data:`GONE`. `failed` ended early.

    `serving`: it takes new connections, and does not only finish those that it has.
    """

    name: str
    accepted: int
    active: int
    bytes_up: int
    bytes_down: int
    handshakes: int
    failed: int
    serving: bool = True


class LimitCounts(Struct, frozen=True, array_like=True):
    """What came of limits: decided without the rate limiter's answer, for sources and for routes; routes' refusals."""

    sources_alone: int = 0
    routes_alone: int = 0
    routes_denied: int = 0


class ServiceTotals(Struct, frozen=True, array_like=True):
    """All that all acceptors have counted since the tree started, of those too that are gone.

    `acceptors` are its parts. `suites` maps OpenSSL's name of a cipher suite to full and resumed handshakes. `routes`
    and `upstreams` have those that are configured and were ever used; `handshake_times` (by route) and `connect_times`
    (by upstream) those of them that have a histogram (:mod:`symphony.observe.timings`).
    """

    accepted: int
    active: int
    bytes_up: int
    bytes_down: int
    handshakes: int
    resumed: int
    errors: dict[str, int]
    listeners: tuple[ListenerCounts, ...]
    suites: dict[str, tuple[int, int]]
    handshake_time: Histogram
    connect_time: Histogram
    acceptors: tuple[AcceptorCounts, ...] = ()
    limits: LimitCounts = LimitCounts()
    log_lines_lost: int = 0
    routes: dict[str, Totals] = {}
    upstreams: dict[str, Totals] = {}
    handshake_times: dict[str, Histogram] = {}
    connect_times: dict[str, Histogram] = {}


class TotalsDescription(Struct, frozen=True, array_like=True, tag=True):
    """The totals, without those of routes and upstreams."""

    totals: ServiceTotals


class DescribeRecords(Struct, frozen=True, array_like=True, tag=True):
    """Ask for :class:`RecordsDescription`."""


class RecordsDescription(Struct, frozen=True, array_like=True, tag=True):
    """What :class:`ServiceTotals` says of routes and upstreams, over all acceptors that the answering one knows.

    `impaired` maps upstreams that there is something against to their state (:mod:`symphony.messages.upstreams`).
    """

    version: int
    routes: dict[str, Totals]
    upstreams: dict[str, Totals]
    handshake_times: dict[str, Histogram]
    connect_times: dict[str, Histogram]
    impaired: dict[str, str]
