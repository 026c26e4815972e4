"""What is measured: one object per axis. `run` measures one peer and returns its figures."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tools.bench import cpu
from tools.bench.backend import Backend
from tools.bench.figures import ratio, slope, spread
from tools.bench.job import Job, SideResult
from tools.bench.outcome import Figure, Target
from tools.bench.pair import Cores, cpu_per_operation_us, cpu_ratio, order, run_pair
from tools.bench.peers import Peer, Service, Symphony
from tools.bench.ports import free_port
from tools.bench.running import running
from tools.bench.workspace import Workspace

CPU = "CPU per operation"
IDLE_SETTLE_S = 1.0


@dataclass(frozen=True)
class Bench:
    """What every axis needs: where things are, and how much is to be done."""

    space: Workspace
    cores: Cores
    reference: Peer | None
    pairs: int
    descriptors: int
    step: Callable[[], None] = lambda: None
    scale: float = 1.0

    @property
    def backend(self) -> Backend:
        """What stands behind the proxies."""
        return self.space.backend

    def service(
        self, *, algorithm: str = "ecdsa", upstream: str = "plain", connections: int = 4096
    ) -> Service:
        """Return the service to be proxied; `upstream` names a socket of the backend."""
        path: Path = getattr(self.backend, upstream)
        pair = self.space.rsa if algorithm == "rsa" else self.space.ecdsa
        return Service(
            self.space.directory, 0, path, pair, upstream == "tls", connections=connections,
            proxy_header=upstream == "proxied",
        )  # fmt: skip

    def both(self, peer: Peer) -> list[Peer]:
        """The two of a pair, or the peer alone when it is the reference itself, or there is none."""
        return [peer, self.reference] if self.reference and self.reference.name != peer.name else [peer]

    def operations(self, count: int) -> int:
        """Scale a number of operations."""
        return max(10, round(count * self.scale))


class Axis:
    """Base of all axes: key, title, and who takes part."""

    key: str
    title: str
    passthrough = False
    needs_nginx = False
    only_symphony = False

    def steps(self, bench: Bench) -> int:
        """Return how many times `bench.step` is called for one peer."""
        return bench.pairs

    def figure(self, peer: Peer, metric: str, unit: str = "", target: Target | None = None) -> Figure:
        """Return a figure of this axis, still without numbers; targets are Symphony's."""
        mine = target if isinstance(peer, Symphony) else None
        return Figure(axis=self.key, title=self.title, peer=peer.name, metric=metric, unit=unit, target=mine)

    def refusal(self, peer: Peer, reason: str) -> Figure:
        """Return the figure that says why there is none."""
        figure = self.figure(peer, CPU if isinstance(self, CpuAxis) else "all figures")
        figure.failure = reason
        return figure

    def run(self, bench: Bench, peer: Peer) -> list[Figure]:
        """Measure a peer. Raises RunError, StartFailed or PortTaken when nothing may be said."""
        raise NotImplementedError


def fill(figure: Figure, own: Sequence[float], reference: Sequence[float]) -> Figure:
    """Put values pair by pair into a figure: its own, the reference's and the ratio's median and range."""
    figure.value = spread(own)
    if reference:
        figure.reference = spread(reference)
        figure.ratio = spread([ratio(a, b) for a, b in zip(own, reference, strict=True)])
    return figure


@dataclass
class CpuAxis(Axis):
    """CPU per operation, two proxies at a time."""

    key: str
    title: str
    job: Job
    algorithm: str = "ecdsa"
    upstream: str = "plain"
    limit: float | None = None

    def __post_init__(self) -> None:
        """Passthrough, and the need of nginx, are told by the backend that is used."""
        self.passthrough = self.upstream == "tls"
        self.needs_nginx = self.upstream in ("tls", "proxied")

    def run(self, bench: Bench, peer: Peer) -> list[Figure]:
        """Run the pairs."""
        job = replace_job(self.job, operations=bench.operations(self.job.operations))
        service = bench.service(algorithm=self.algorithm, upstream=self.upstream)
        own, others, ratios = [], [], []
        for index in range(bench.pairs):
            sides = run_pair(order(index, bench.both(peer)), service, job, bench.cores)
            own.append(cpu_per_operation_us(sides[peer.name]))
            if len(sides) == 2 and bench.reference:
                others.append(cpu_per_operation_us(sides[bench.reference.name]))
                ratios.append(cpu_ratio(sides[peer.name], sides[bench.reference.name]))
            bench.step()
        target = Target("ratio", self.limit) if self.limit else None
        figure = fill(self.figure(peer, CPU, "µs", target), own, others)
        figure.ratio = spread(ratios) if ratios else None
        return [figure]


def replace_job(job: Job, **changes: object) -> Job:
    """Return a job with some values changed."""
    values = {name: getattr(job, name) for name in job.__struct_fields__}
    return Job(**{**values, **changes})


@dataclass
class MemoryAxis(Axis):
    """Private memory per idle connection: the slope between two numbers of connections."""

    key: str
    title: str
    upstream: str = "plain"
    limit_kb: float | None = None

    def __post_init__(self) -> None:
        """Passthrough, and the need of nginx, are told by the backend that is used."""
        self.passthrough = self.upstream == "tls"
        self.needs_nginx = self.upstream in ("tls", "proxied")

    def run(self, bench: Bench, peer: Peer) -> list[Figure]:
        """Run the pairs."""
        low, high = 200, bench.operations(1000) + 200
        job = Job(kind="hold", sides=[], idle=[low, high])
        service = bench.service(upstream=self.upstream)
        own, others = [], []
        for index in range(bench.pairs):
            sides = run_pair(order(index, bench.both(peer)), service, job, bench.cores)
            own.append(_slope_kb(sides[peer.name]))
            if len(sides) == 2 and bench.reference:
                others.append(_slope_kb(sides[bench.reference.name]))
            bench.step()
        target = Target("value", self.limit_kb) if self.limit_kb else None
        return [fill(self.figure(peer, "private memory per idle connection", "KB", target), own, others)]


def _slope_kb(side: SideResult) -> float:
    return slope([(level.idle, level.private_bytes / 1024) for level in side.levels])


class IdleGrowth(Axis):
    """What a request costs while idle connections are held, against the same proxy with few, at the same time."""

    key = "idle-growth"
    title = "small request while idle connections are held, to the same proxy with 100"
    only_symphony = True

    def steps(self, bench: Bench) -> int:
        """The reference beside itself, too."""
        return 2 * bench.pairs

    def run(self, bench: Bench, peer: Peer) -> list[Figure]:
        """Pair each proxy with itself; every pair goes through all numbers of connections."""
        most = min(10_000, (bench.descriptors - 300) // 2)  # a proxy needs two descriptors for a connection
        levels = [100, *(n for n in (1000, 5000) if n < most), most]
        operations = bench.operations(10_000)
        job = Job(
            kind="closed",
            sides=[],
            connections=25,
            warmup=1000,
            operations=operations,
            idle=levels,
            limit_s=300,
        )
        service = bench.service(connections=most + 100)
        growth: dict[str, list[list[float]]] = {}
        for index in range(bench.pairs):
            for one in bench.both(peer):
                twin = copy.copy(one)
                twin.name = f"{one.name}-with-few"
                few = {twin.name: [100] * len(levels)}
                sides = run_pair(order(index, [one, twin]), service, job, bench.cores, few)
                costs = [cpu_ratio(sides[one.name], sides[twin.name], i) for i in range(len(levels))]
                growth.setdefault(one.name, []).append(costs)
                bench.step()
        figures = []
        for i, idle in enumerate(levels[1:], start=1):
            target = Target("value", 1.02) if idle == most else None
            figure = self.figure(peer, f"CPU per operation with {idle:,}", "", target)
            figure.value = spread([costs[i] for costs in growth[peer.name]])
            if bench.reference and bench.reference.name in growth:
                figure.reference = spread([costs[i] for costs in growth[bench.reference.name]])
            figures.append(figure)
        return figures


class AcceptRate(Axis):
    """Connections a second with full handshakes, each proxy alone."""

    key = "accept-rate"
    title = "connections a second (full handshake, one request), alone on its core"

    def run(self, bench: Bench, peer: Peer) -> list[Figure]:
        """Run the proxy and the reference one after the other."""
        job = Job(kind="fresh", sides=[], connections=32, warmup=100, operations=bench.operations(2000))
        reached: dict[str, list[float]] = {}
        possible: dict[str, list[float]] = {}
        for index in range(bench.pairs):
            for one in order(index, bench.both(peer)):
                level = run_pair([one], bench.service(), job, bench.cores)[one.name].levels[0]
                reached.setdefault(one.name, []).append(level.operations / level.seconds)
                possible.setdefault(one.name, []).append(level.operations / (level.cpu_ns / 1e9))
            bench.step()
        other = bench.reference.name if len(reached) == 2 and bench.reference else ""
        return [
            fill(self.figure(peer, metric, "/s"), values[peer.name], values.get(other, []))
            for metric, values in (
                ("reached with one load process", reached),
                ("per second of its own CPU", possible),
            )
        ]


class Latency(Axis):
    """Latency at a fixed rate below saturation, each proxy alone; due times are fixed in advance."""

    key = "latency"
    title = "latency of a small request at 2,000 requests/s over 25 connections"

    def run(self, bench: Bench, peer: Peer) -> list[Figure]:
        """Run the proxy and the reference one after the other."""
        operations = bench.operations(8000)
        job = Job(kind="rate", sides=[], connections=25, rate=2000, warmup=1000, operations=operations)
        found: dict[str, dict[str, list[float]]] = {}
        for index in range(bench.pairs):
            for one in order(index, bench.both(peer)):
                side = run_pair([one], bench.service(), job, bench.cores)[one.name]
                for metric, value in side.latency_us.items():
                    found.setdefault(metric, {}).setdefault(one.name, []).append(value)
            bench.step()
        return [
            fill(
                self.figure(peer, metric, "µs"),
                values[peer.name],
                values.get(bench.reference.name, []) if bench.reference and len(values) == 2 else [],
            )
            for metric, values in found.items()
        ]


class Acceptors(Axis):
    """What a second acceptor does: CPU per operation and throughput with 2 workers against 1, on all cores."""

    key = "acceptors"
    title = "2 workers against 1, proxy, load and backend on all cores"

    def run(self, bench: Bench, peer: Peer) -> list[Figure]:
        """One and two workers in turn; the reference does the same for itself when its turn comes."""
        figures = []
        jobs = {
            "small request": Job(
                kind="closed", sides=[], connections=64, warmup=2000, operations=bench.operations(15_000)
            ),
            "full handshake": Job(
                kind="fresh", sides=[], connections=32, warmup=100, operations=bench.operations(1500)
            ),
        }
        free = Cores(None, None)
        for name, job in jobs.items():
            costs, rates = [], []
            for index in range(bench.pairs):
                cost, rate = {}, {}
                for workers in (1, 2) if index % 2 == 0 else (2, 1):
                    service = replace(bench.service(), workers=workers)
                    side = run_pair([peer], service, job, free)[peer.name]
                    cost[workers] = cpu_per_operation_us(side)
                    rate[workers] = side.levels[0].operations / side.levels[0].seconds
                costs.append(ratio(cost[2], cost[1]))
                rates.append(ratio(rate[2], rate[1]))
                bench.step()
            for metric, values in (("CPU per operation", costs), ("throughput", rates)):
                figure = self.figure(peer, f"{name}: {metric}, 2 workers to 1")
                figure.value = spread(values)
                figures.append(figure)
        return figures

    def steps(self, bench: Bench) -> int:
        """Two jobs."""
        return 2 * bench.pairs


class Ready(Axis):
    """From the command to the first right answer, and what the idle program takes."""

    key = "ready"
    title = "start and idle footprint with 2 workers"

    def run(self, bench: Bench, peer: Peer) -> list[Figure]:
        """Start it, several times, on all cores."""
        times, sizes = [], []
        for _ in range(bench.pairs):
            service = replace(bench.service(connections=1000), workers=2, port=free_port())
            with running(peer, service, None) as proxy:
                times.append(proxy.ready_s)
                time.sleep(IDLE_SETTLE_S)
                sizes.append(cpu.pss_bytes(proxy.pids()) / 1e6)
            bench.step()
        ready = self.figure(peer, "from the command to the first answer", "s", Target("value", 1.5))
        size = self.figure(peer, "PSS of all processes, idle", "MB", Target("value", 90))
        return [fill(ready, times, []), fill(size, sizes, [])]
