"""What an acceptor has counted, page by page: the part of its mailbox that metrics and the dashboard ask."""

from __future__ import annotations

from msgspec import Struct

from symphony.observe.histogram import Histogram
from symphony.observe.records import Totals


class DescribeTotals(Struct, frozen=True, array_like=True, tag=True):
    """Ask for :class:`AcceptorTotals`."""


class ListenerCounts(Struct, frozen=True, array_like=True):
    """One listener. `blocked` maps a reason to how many connections the listener refused for it."""

    id: str
    address: str
    accepted: int
    active: int
    blocked: dict[str, int]


class PageTotals(Struct, frozen=True, array_like=True):
    """All that acceptor `name` has counted since the tree started, over all its lives.

    `suites` maps OpenSSL's name of a cipher suite to full and resumed handshakes. `routes` and `upstreams` have those
    that were ever used.
    """

    name: str
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
    routes: dict[str, Totals]
    upstreams: dict[str, Totals]


class AcceptorTotals(Struct, frozen=True, array_like=True, tag=True):
    """The pages of the answering acceptor and of those siblings that it stands in for; the version it serves."""

    version: int
    held: int
    pages: tuple[PageTotals, ...]
