"""Hold as many idle connections as asked, and measure what each costs the proxy and the kernel.

Client, proxy and upstream are on this machine, with one socket pair between client and proxy and one between proxy and
upstream. So the kernel's memory is counted for both ends of both, and half of it is the proxy's.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import Struct, field

from tools.bench import capacity, cpu, kernel
from tools.bench.backend import start_backend
from tools.bench.content import SERVER_NAME
from tools.bench.figures import Spread, slope, spread
from tools.bench.holder import HELD_NAME
from tools.bench.holders import SPARE_DESCRIPTORS, Holders
from tools.bench.job import Job
from tools.bench.pair import RunError, cpu_ratio, measure_running, settled_pids
from tools.bench.peers import Service, Symphony
from tools.bench.ports import free_port
from tools.bench.process import Program
from tools.bench.running import Running, running

FIRST_PART = 0.05
SETTLE_S = 1.0
MEMORY_RESERVE = 0.1
GROWN = 10
"""A process that has so many more descriptors than at rest is an acceptor with connections."""
_GUESS_BYTES = {False: 60_000, True: 25_000}  # of the whole machine for one connection, before it is measured
_ACTIVE = Job(kind="closed", sides=[], connections=25, warmup=1000, operations=10_000)


@dataclass(frozen=True)
class Wish:
    """How much is to be held, and how long it may take."""

    connections: int
    passthrough: bool
    steps: int
    idle_s: float
    deadline: float
    pairs: int


class HoldLevel(Struct, kw_only=True):
    """What was measured with so many connections held. Memory in bytes, machine-wide for the kernel's."""

    held: int
    seconds: float
    opening_cpu_ns: int
    idle_ns_per_s: float
    user_bytes: int
    kernel_bytes: int
    caches: dict[str, int]
    descriptors: int
    fewest: int
    most: int


class HoldResult(Struct, kw_only=True):
    """A whole run. `stopped` says why it ended before all wanted connections were held, empty if it did not."""

    passthrough: bool
    wanted: int
    acceptors: int
    clients: int
    costs: capacity.Costs
    opening_cpu_us: float
    caches: dict[str, float]
    levels: list[HoldLevel]
    checked: int
    stopped: str = ""
    active: Spread | None = None
    limits: dict[str, str] = field(default_factory=dict)


class Holding(Symphony):
    """Symphony with two routes: one for the held connections, spread over some upstreams, one for requests."""

    def __init__(self, upstreams: Sequence[Path], passthrough: bool) -> None:
        """`upstreams` are the sockets of the processes that stand behind the held connections."""
        super().__init__()
        self._upstreams = upstreams
        self._held_passthrough = passthrough

    def config_name(self) -> str:
        """JSON, for no other reason than that it is easily written."""
        return "symphony.json"

    def config(self, service: Service) -> str:
        """Defaults but for the idle time."""
        certificate = {"cert_chain_file": str(service.pair.chain), "private_key_file": str(service.pair.key)}
        held: dict[str, object] = {
            "sni": HELD_NAME,
            "upstreams": [{"kind": "uds", "path": str(path)} for path in self._upstreams],
            "terminate_tls": not self._held_passthrough,
        }
        if not self._held_passthrough:
            held["cert"] = certificate
        asked = {
            "sni": SERVER_NAME,
            "upstreams": [{"kind": "uds", "path": str(service.upstream)}],
            "cert": certificate,
        }
        listener = {"host": "127.0.0.1", "port": service.port, "idle_timeout_ms": 24 * 3_600_000}
        return json.dumps(
            {
                "workers": service.workers,
                "drain_timeout_ms": 200,
                "listeners": [listener],
                "routes": [held, asked],
            }
        )


def levels_of(connections: int, steps: int) -> list[int]:
    """Return the numbers of connections at which is measured: a first few, then equal steps."""
    first = max(1, int(connections * FIRST_PART))
    return sorted({first, *(round(connections * step / steps) for step in range(1, steps + 1))})


def per_connection(
    levels: Sequence[HoldLevel], tree_bytes: float, acceptor_bytes: float
) -> tuple[capacity.Costs, dict[str, float]]:
    """Return the proxy's costs of a connection (slopes over the levels) and the kernel's caches behind them.

    The kernel's figures are halved: the other half belongs to the client and the upstream.
    """

    def of(value: Callable[[HoldLevel], float]) -> float:
        return slope([(level.held, value(level)) for level in levels])

    caches = {
        name: slope([(level.held, level.caches[name]) for level in levels]) / 2 for name in levels[0].caches
    }
    idle = [level.idle_ns_per_s for level in levels]
    caches = dict(sorted(caches.items(), key=lambda item: -item[1]))
    costs = capacity.Costs(
        user_bytes=of(lambda level: level.user_bytes),
        kernel_bytes=of(lambda level: level.kernel_bytes) / 2,
        descriptors=of(lambda level: level.descriptors),
        idle_ns_per_s=of(lambda level: level.idle_ns_per_s),
        idle_noise_ns_per_s=(max(idle) - min(idle)) / (levels[-1].held - levels[0].held),
        tree_bytes=tree_bytes,
        acceptor_bytes=acceptor_bytes,
    )
    return costs, caches


def _descriptors(pids: Sequence[int]) -> list[int]:
    """Return how many descriptors processes have open.

    Linux 6.2 and newer say it as the size of the directory. Listing it makes an inode and a dentry for every entry,
    which would be counted as the connections'.
    """
    folders = [f"/proc/{pid}/fd" for pid in pids]
    return [os.stat(folder).st_size or len(os.listdir(folder)) for folder in folders]


class Hold:
    """One run: proxy, upstreams and clients, level by level."""

    def __init__(self, wish: Wish, service: Service, descriptors: int, say: Callable[[str], None]) -> None:
        """`service.upstream` answers requests; `descriptors` is what one process may open."""
        self._wish = wish
        self._descriptors = descriptors
        self._say = say
        self._caches = kernel.socket_caches()
        acceptors = max(len(os.sched_getaffinity(0)), capacity.acceptors_for(wish.connections, descriptors))
        self._service = replace(service, port=free_port(), workers=acceptors)

    def run(self) -> HoldResult:
        """Hold, measure, check. RunError when any connection was lost or answered wrongly."""
        wish = self._wish
        with self._upstreams() as upstreams:
            peer = Holding(upstreams, wish.passthrough)
            with running(peer, self._service, None) as proxy:
                holders = Holders(
                    proxy.service.directory, proxy.port, wish.connections, wish.passthrough, self._descriptors
                )
                try:
                    return self._levels(proxy, peer, holders)
                except RunError as error:
                    raise RunError(f"{error}; {peer.name} says: {proxy.program.tail(3)}") from error
                finally:
                    holders.stop()

    @contextlib.contextmanager
    def _upstreams(self) -> Iterator[list[Path]]:
        """Run the processes behind the held connections; each can have as many as its descriptors."""
        count = -(-self._wish.connections // (self._descriptors - 3 * SPARE_DESCRIPTORS))
        directory = self._service.directory
        paths = [directory / f"echo-{number}.sock" for number in range(count)]
        programs: list[Program] = []
        try:
            for path in paths:
                path.unlink(missing_ok=True)
                command = [sys.executable, "-m", "tools.bench.echo", str(path)]
                programs.append(start_backend(path.stem, command, directory, None, [path]))
            yield paths
        finally:
            for program in programs:
                program.stop()

    def _levels(self, proxy: Running, peer: Holding, holders: Holders) -> HoldResult:
        wish = self._wish
        pids = settled_pids(proxy)
        at_rest = _descriptors(pids)
        private = {pid: cpu.private_bytes([pid]) for pid in pids}
        levels: list[HoldLevel] = []
        stopped = ""
        available, total = kernel.available_bytes(), kernel.total_bytes()
        for wanted in levels_of(wish.connections, wish.steps):
            held = levels[-1].held if levels else 0
            each = (available - kernel.available_bytes()) / held if held else _GUESS_BYTES[wish.passthrough]
            if kernel.available_bytes() - (wanted - held) * each < total * MEMORY_RESERVE:
                stopped = f"the memory has no room for {wanted:,} connections and a reserve"
                break
            level = self._level(pids, at_rest, holders, wanted, held)
            levels.append(level)
            if proxy.pids() != pids:
                raise RunError("the proxy's processes changed during the measurement")
            self._say(f"{level.held:,} connections held, {(level.held - held) / level.seconds:,.0f}/s")
            if level.held < wanted:
                stopped = "the time was up"
                break
        if len({level.held for level in levels}) < 2:
            raise RunError(f"nothing to compare: {stopped}")
        checked = holders.check(60.0)
        acceptors = [
            pid
            for pid, now, then in zip(pids, _descriptors(pids), at_rest, strict=True)
            if now - then > GROWN
        ]
        own = sum(private[pid] for pid in acceptors)
        costs, caches = per_connection(levels, sum(private.values()) - own, own / len(acceptors))
        opened = levels[-1].held - levels[0].held
        result = HoldResult(
            passthrough=wish.passthrough,
            wanted=wish.connections,
            acceptors=self._service.workers,
            clients=holders.count,
            costs=costs,
            opening_cpu_us=sum(level.opening_cpu_ns for level in levels[1:]) / 1000 / opened,
            caches=caches,
            levels=levels,
            checked=checked,
            stopped=stopped,
            limits=kernel.limits(),
        )
        if wish.pairs:
            self._say(f"small requests while {levels[-1].held:,} connections are held")
            result.active = self._active(proxy, peer)
        return result

    def _level(
        self, pids: Sequence[int], at_rest: Sequence[int], holders: Holders, wanted: int, before: int
    ) -> HoldLevel:
        started, used = time.monotonic(), cpu.cpu_ns(pids)
        held = holders.hold(wanted, max(1.0, self._wish.deadline - started))
        seconds, used = time.monotonic() - started, cpu.cpu_ns(pids) - used
        if held <= before:
            raise RunError(f"no connection was opened in {seconds:.0f} s")
        time.sleep(SETTLE_S)
        idle_started, idle = time.monotonic(), cpu.cpu_ns(pids)
        time.sleep(self._wish.idle_s)
        idle, idle_s = cpu.cpu_ns(pids) - idle, time.monotonic() - idle_started
        caches = kernel.sizes_of(self._caches, kernel.slab_caches())
        descriptors = _descriptors(pids)
        grown = [now - then for now, then in zip(descriptors, at_rest, strict=True) if now - then > GROWN]
        return HoldLevel(
            held=held,
            seconds=seconds,
            opening_cpu_ns=used,
            idle_ns_per_s=idle / idle_s,
            user_bytes=cpu.private_bytes(pids),
            kernel_bytes=sum(caches.values()) + kernel.tcp_buffer_bytes(),
            caches=caches,
            descriptors=sum(descriptors),
            fewest=min(grown, default=0) // 2,
            most=max(grown, default=0) // 2,
        )

    def _active(self, proxy: Running, peer: Holding) -> Spread:
        """Return the CPU of a request with all connections held, to that of the same proxy without any."""
        twin = copy.copy(peer)
        twin.name = "symphony-holding-none"
        ratios = []
        for index in range(self._wish.pairs):
            with running(twin, replace(self._service, port=free_port()), None) as other:
                both = [proxy, other] if index % 2 == 0 else [other, proxy]
                sides = measure_running(both, _ACTIVE, None)
                ratios.append(cpu_ratio(sides[peer.name], sides[twin.name]))
        return spread(ratios)
