"""Asks a running instance for everything that can be counted, and puts the answers together.

All actors are asked at the same time and get a second each; one that does not answer is named, and what the others
said is there: this is looked at most when something is wrong.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import psutil
from msgspec import Struct, structs

from supervisor.messages import ChildDescription, DescribeTree, TreeDescription, TreeReply
from symphony.api.asking import acceptors_in, ask_briefly
from symphony.api.certificates import ask_certificates
from symphony.api.names import CONTROL, LIMITER, REGISTRY, SUPERVISOR
from symphony.api.upstreams import gather_upstreams
from symphony.mailbox.client import MailboxError
from symphony.messages.acceptor import AcceptorDescription, AcceptorReply, DescribeAcceptor
from symphony.messages.control import ControlReply
from symphony.messages.limiter import DescribeLimiter, LimiterDescription, LimiterReply
from symphony.messages.registry import ConfigDescription, DescribeConfig, RegistryReply
from symphony.messages.totals import (
    DescribeRecords,
    DescribeTotals,
    RecordsDescription,
    ServiceTotals,
    TotalsDescription,
)
from symphony.messages.upstreams import RouteUpstreams
from symphony.observe.telemetry import (
    NOTHING_COUNTED,
    AcceptorTelemetry,
    ActorTelemetry,
    CertificateState,
    LimiterTelemetry,
    RouteState,
    Telemetry,
    UpstreamState,
)
from symphony.routing.certificates import ServedCertificate
from symphony.version import __version__

RECORDS_WITHIN_S = 5.0
"""100,000 routes that are in use take a second or more to be read."""
_CERTIFICATES_WITHIN_S = 5.0
"""Ten thousand of them take their time; they are asked for once per configuration."""


class TelemetrySource:
    """The instance in `runtime_dir`, asked again and again.

    What was told last is remembered for when nobody tells it, so that no total goes back between two answers; what only
    changes with the configuration is asked for once per version of it.
    """

    def __init__(self, runtime_dir: str) -> None:
        self._runtime_dir = runtime_dir
        self._totals: ServiceTotals | None = None
        self._records: RecordsDescription | None = None
        self._serving: tuple[str, ...] = ()
        self._routes: tuple[int, tuple[RouteUpstreams, ...]] = (0, ())
        self._certificates: tuple[int, tuple[CertificateState, ...]] = (0, ())

    async def gather(self) -> Telemetry:
        """Ask once. Takes two seconds or so at most, and raises nothing for an instance that is silent."""
        runtime_dir = self._runtime_dir
        acceptors = acceptors_in(runtime_dir)
        tree, counted, config, limiter, *answers = await asyncio.gather(
            ask_briefly(runtime_dir, SUPERVISOR, DescribeTree(), TreeReply),
            ask_briefly(runtime_dir, CONTROL, DescribeTotals(), ControlReply),
            ask_briefly(runtime_dir, REGISTRY, DescribeConfig(), RegistryReply),
            ask_briefly(runtime_dir, LIMITER, DescribeLimiter(), LimiterReply),
            *(ask_briefly(runtime_dir, name, DescribeAcceptor(), AcceptorReply) for name in acceptors),
        )
        silent = [
            name
            for name, answer in zip(
                (SUPERVISOR, REGISTRY, LIMITER, *acceptors), (tree, config, limiter, *answers), strict=True
            )
            if not isinstance(answer, Struct)
        ]
        told = [answer for answer in answers if isinstance(answer, AcceptorDescription)]
        applied = {answer.name: answer.version for answer in told if answer.version}
        if isinstance(counted, TotalsDescription):
            self._totals = counted.totals
            self._serving = tuple(part.name for part in counted.totals.acceptors if part.serving)
        known = isinstance(config, ConfigDescription)
        version = config.version if known else max(applied.values(), default=0)
        await asyncio.gather(
            self._ask_records([name for name in self._serving if name in applied]),
            self._ask_certificates(config.version if known else 0),
        )
        now = time.time()
        return Telemetry(
            at=now,
            version=__version__,
            pid=tree.pid if isinstance(tree, TreeDescription) else 0,
            uptime_s=max(0.0, now - tree.started_at) if isinstance(tree, TreeDescription) else 0.0,
            config_file=config.file if known else "",
            config_version=version,
            routes=config.routes if known else 0,
            problems=len(config.problems) if known else 0,
            applied=applied,
            actors=tuple(_actors(tree)),
            totals=self._all_totals(),
            held=sum(answer.held for answer in told),
            silent=tuple(silent),
            acceptors=tuple(
                AcceptorTelemetry(answer.name, answer.held, answer.descriptors, answer.descriptor_limit)
                for answer in told
            ),
            route_states=self._route_states(),
            certificates=self._certificates[1],
            limiter=LimiterTelemetry(limiter.buckets, limiter.sources, limiter.at_limit)
            if isinstance(limiter, LimiterDescription)
            else None,
            counted=self._totals is not None,
        )

    async def _ask_records(self, acceptors: list[str]) -> None:
        """Any acceptor that takes connections knows the records of all; those of earlier ones do not."""
        for name in acceptors:
            records = await ask_briefly(
                self._runtime_dir, name, DescribeRecords(), AcceptorReply, RECORDS_WITHIN_S
            )
            if isinstance(records, RecordsDescription):
                self._records = records
                if records.version != self._routes[0] and (
                    routes := await gather_upstreams(self._runtime_dir, [name])
                ):
                    self._routes = records.version, routes
                return

    async def _ask_certificates(self, version: int) -> None:
        if version in (0, self._certificates[0]):
            return
        try:
            found = await ask_certificates(self._runtime_dir, _CERTIFICATES_WITHIN_S)
        except MailboxError:
            return  # the next time, then
        self._certificates = version, tuple(_earliest(found))

    def _all_totals(self) -> ServiceTotals:
        totals, records = self._totals or NOTHING_COUNTED, self._records
        if records is None:
            return totals
        return structs.replace(
            totals,
            routes=records.routes,
            upstreams=records.upstreams,
            handshake_times=records.handshake_times,
            connect_times=records.connect_times,
        )

    def _route_states(self) -> tuple[RouteState, ...]:
        impaired = self._records.impaired if self._records is not None else {}
        return tuple(
            RouteState(
                row.route,
                tuple(
                    UpstreamState(each.upstream, impaired.get(each.upstream, "up"), each.mode)
                    for each in row.upstreams
                ),
            )
            for row in self._routes[1]
        )


def _earliest(certificates: Iterable[ServedCertificate]) -> Iterable[CertificateState]:
    """One for each name, issuer and type of key: of several, the one that expires first, which stands first."""
    found: dict[tuple[str, str, str], CertificateState] = {}
    for each in certificates:
        facts = each.facts
        name = facts.names[0] if facts.names else facts.fingerprint[:16]
        key = (name, facts.issuer, facts.key_type)
        before = found.get(key)
        if before is not None:
            found[key] = structs.replace(before, routes=before.routes + len(each.routes))
        else:
            found[key] = CertificateState(*key, facts.not_before, facts.not_after, len(each.routes))
    return found.values()


def _actors(tree: Any) -> list[ActorTelemetry]:
    if not isinstance(tree, TreeDescription):
        return []
    supervisor = ChildDescription(
        SUPERVISOR, SUPERVISOR, "", tree.pid, "running", 0, max(0.0, time.time() - tree.started_at), 0, ""
    )
    return [_actor(child) for child in (supervisor, *tree.children)]


def _actor(child: ChildDescription) -> ActorTelemetry:
    cpu_s, rss_bytes = _use_of(child.pid) if child.pid else (0.0, 0)
    return ActorTelemetry(
        name=child.name,
        kind=child.kind,
        group=child.group,
        pid=child.pid,
        state=str(child.state),
        restarts=child.restarts,
        uptime_s=child.uptime_s,
        depth=child.depth,
        last_exit=child.last_exit,
        cpu_s=cpu_s,
        rss_bytes=rss_bytes,
    )


def _use_of(pid: int) -> tuple[float, int]:
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return times.user + times.system, process.memory_info().rss
    except psutil.Error:
        return 0.0, 0
