"""An instance at one moment, in numbers: what metrics, the dashboard and the programming interface are made from.

Totals count since the tree started and never go back: they are kept in shared memory that outlives any acceptor.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from symphony.config.model import UpstreamMode
from symphony.messages.totals import ServiceTotals
from symphony.observe.histogram import Histogram
from symphony.observe.record_totals import Totals

NOTHING_COUNTED = ServiceTotals(0, 0, 0, 0, 0, 0, {}, (), {}, Histogram(), Histogram())
_STOPPING = "stopping"
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


class AcceptorTelemetry(Struct, frozen=True):
    """What an acceptor says of itself: how many connections it holds for a decision, and its descriptors."""

    name: str
    held: int
    descriptors: int
    descriptor_limit: int


class UpstreamState(Struct, frozen=True):
    """An upstream of a route. For `state` see :mod:`symphony.messages.upstreams`; `mode` is an operator's word."""

    upstream: str
    state: str
    mode: UpstreamMode

    @property
    def summary(self) -> str:
        """``up`` (it may get new connections), ``draining`` or ``down`` (only when there is no other)."""
        if self.mode == "drain":
            return "draining"
        return "up" if self.mode == "ready" and self.state == "up" else "down"


class RouteState(Struct, frozen=True):
    """A route of the configuration, "" for the default one, and its upstreams."""

    route: str
    upstreams: tuple[UpstreamState, ...]

    def count(self, summary: str) -> int:
        """How many of its upstreams have this :attr:`UpstreamState.summary`."""
        return sum(each.summary == summary for each in self.upstreams)


class CertificateState(Struct, frozen=True):
    """A certificate by the first of its names. `not_after` is in seconds since the epoch; `routes` show it."""

    name: str
    issuer: str
    key_type: str
    not_before: float
    not_after: float
    routes: int


class LimiterTelemetry(Struct, frozen=True):
    """What the rate limiter keeps: buckets of routes; how many sources are remembered, or at their limit."""

    buckets: int
    sources: int
    at_limit: int


class Telemetry(Struct, frozen=True):
    """Everything, as of `at` (seconds since the epoch).

    `applied` maps each acceptor to the configuration version that it serves. `silent` names the actors that did not
    answer in time: what they alone know is as they said it last, or missing. While `counted` is false, nobody has told
    any `totals` yet.
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
    totals: ServiceTotals
    held: int
    silent: tuple[str, ...]
    acceptors: tuple[AcceptorTelemetry, ...] = ()
    route_states: tuple[RouteState, ...] = ()
    certificates: tuple[CertificateState, ...] = ()
    limiter: LimiterTelemetry | None = None
    counted: bool = True

    @property
    def draining(self) -> bool:
        """Whether every acceptor that serves lets nobody in any more."""
        states = {actor.name: actor.state for actor in self.actors}
        serving = [states[name] for name in self.applied if name in states]
        return bool(serving) and all(state == _STOPPING for state in serving)
