"""How the upstreams of the routes fare: the part of an acceptor's mailbox that status commands ask."""

from __future__ import annotations

from msgspec import Struct

from symphony.config.model import Balance, UpstreamMode


class DescribeUpstreams(Struct, frozen=True, array_like=True, tag=True):
    """Ask for :class:`UpstreamsDescription`: `at_most` routes, from number `first` on in their order."""

    first: int
    at_most: int


class UpstreamDescription(Struct, frozen=True, array_like=True):
    """One upstream of a route. Its figures are over all acceptors and all routes, since the tree started.

    `state` is ``up``, ``out`` (connections failed), ``trying`` (one connection is let through to see) or ``down`` (its
    health checks fail). `connect_us` is what connecting took, added up over `connections`. `mode` is what an operator
    says of it in this route.
    """

    upstream: str
    weight: int
    state: str
    active: int
    connections: int
    failures: int
    bytes_up: int
    bytes_down: int
    connect_us: int
    mode: UpstreamMode = "ready"


class RouteUpstreams(Struct, frozen=True, array_like=True):
    """The upstreams of the route `route`, "" for the default one."""

    route: str
    balance: Balance
    upstreams: tuple[UpstreamDescription, ...]


class UpstreamsDescription(Struct, frozen=True, array_like=True, tag=True):
    """Some routes of configuration `version`, which has `total`."""

    version: int
    total: int
    routes: tuple[RouteUpstreams, ...]
