"""Axes about many routes: what a lookup costs, how long a reload takes, and how long it stops an acceptor."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tools.bench import certs, cpu
from tools.bench.asking import answered_by
from tools.bench.axes import Axis, Bench, fill, replace_job
from tools.bench.content import SERVER_NAME
from tools.bench.figures import spread
from tools.bench.job import Job, SideJob, SideResult
from tools.bench.outcome import Figure, Target
from tools.bench.pair import RunError, measure
from tools.bench.peers import Peer, Service, Symphony
from tools.bench.ports import free_port
from tools.bench.running import Running, running

MOVED = f"moved.{SERVER_NAME}"
RELOAD_DEADLINE_S = 120.0
_RATE = 500
_ROUTES = (10, 1_000, 10_000, 100_000)
_CERTIFICATES = 1_000


class ManyRoutes(Symphony):
    """Symphony with a number of further routes, each with one certificate for all or one of its own."""

    start_deadline_s = 180.0

    def __init__(self, routes: int, pairs: Sequence[certs.KeyPair] = ()) -> None:
        """`pairs`, when given, holds a certificate for every further route."""
        super().__init__()
        self.name = f"symphony-{routes}"
        self._routes = routes
        self._pairs = pairs

    def config_name(self) -> str:
        """JSON: 100,000 routes in TOML would measure the standard library's TOML parser."""
        return "symphony.json"

    def config(self, service: Service) -> str:
        """The benchmark's route, one that a reload moves, and all the others."""
        return self.moved(service, service.upstream)

    def moved(self, service: Service, upstream: Path) -> str:
        """Return the configuration in which the route that moves goes to `upstream`."""

        def certificate(pair: certs.KeyPair) -> dict[str, str]:
            return {"cert_chain_file": str(pair.chain), "private_key_file": str(pair.key)}

        def route(name: str, path: Path, pair: certs.KeyPair) -> dict[str, object]:
            return {"sni": name, "upstreams": [{"kind": "uds", "path": str(path)}], "cert": certificate(pair)}

        pairs = self._pairs or [service.pair] * self._routes
        routes = [
            route(SERVER_NAME, service.upstream, service.pair),
            route(MOVED, upstream, service.pair),
            *(
                route(f"host-{i}.{SERVER_NAME}", service.upstream, pair)
                for i, pair in enumerate(pairs[: self._routes])
            ),
        ]
        listener = {"host": "127.0.0.1", "port": service.port, "idle_timeout_ms": 3_600_000}
        return json.dumps(
            {
                "workers": service.workers,
                "drain_timeout_ms": 200,
                "listeners": [listener],
                "routes": routes,
            }
        )


class Reload(Axis):
    """Reloads under a steady load: until the changed route is served, and the longest wait of a request meanwhile."""

    key = "reload"
    title = "reload while 500 requests/s are served, on all cores"
    only_symphony = True

    def steps(self, bench: Bench) -> int:
        """Every number of routes, and the certificates."""
        return (len(_ROUTES) + 1) * bench.pairs

    def run(self, bench: Bench, peer: Peer) -> list[Figure]:
        """Reload with every number of routes."""
        figures = []
        private: dict[int, list[float]] = {}
        for routes in _ROUTES:
            figures += self._reloads(
                bench, peer, ManyRoutes(routes), f"{routes:,} routes", private.setdefault(routes, [])
            )
        directory = bench.space.directory / "many"
        directory.mkdir(exist_ok=True)
        pairs = [
            certs.make(directory, f"host-{i}.{SERVER_NAME}", "ecdsa", f"host-{i}")
            for i in range(_CERTIFICATES)
        ]
        label = f"{_CERTIFICATES:,} routes with certificates of their own"
        with_certificates: list[float] = []
        figures += self._reloads(bench, peer, ManyRoutes(_CERTIFICATES, pairs), label, with_certificates)
        memory = self.figure(peer, "private memory per distinct certificate (1 worker, whole tree)", "KB")
        memory.value = spread(
            [(a - b) / _CERTIFICATES / 1024 for a, b in zip(with_certificates, private[1_000], strict=True)]
        )
        return [*figures, memory]

    def _reloads(
        self, bench: Bench, peer: Peer, many: ManyRoutes, label: str, private: list[float]
    ) -> list[Figure]:
        times, stalls, calm, starts = [], [], [], []
        for _ in range(bench.pairs):
            service = replace(bench.service(), port=free_port())
            with running(many, service, None) as proxy:
                starts.append(proxy.ready_s)
                private.append(float(cpu.private_bytes(proxy.pids())))
                before = self._load(proxy, bench, 2.0)
                job_s = 2.0 + 2 * proxy.ready_s
                with ThreadPoolExecutor(1) as pool:
                    load = pool.submit(self._load, proxy, bench, job_s)
                    time.sleep(0.8)  # the load process has to be at its rate before the reload begins
                    times.append(_reload(many, proxy, bench.backend.sink))
                    during = load.result()
                calm.append(before.latency_us["max"] / 1000)
                stalls.append(during.latency_us["max"] / 1000)
            bench.step()
        target_time = Target("value", 1.0) if label.startswith("10,000") else None
        target_stall = Target("value", 20.0) if label.startswith("10,000") else None
        stall = self.figure(peer, f"{label}: longest wait of a request during the reload", "ms", target_stall)
        stall.note = f"without a reload {spread(calm).text(1)} ms"
        return [
            fill(self.figure(peer, f"{label}: reload", "s", target_time), times, []),
            fill(stall, stalls, []),
            fill(self.figure(peer, f"{label}: start", "s"), starts, []),
        ]

    def _load(self, proxy: Running, bench: Bench, seconds: float) -> SideResult:
        side = SideJob(name=proxy.peer.name, port=proxy.port, pids=proxy.pids())
        job = Job(kind="rate", sides=[side], connections=4, rate=_RATE, warmup=100)
        job = replace_job(job, operations=int(_RATE * seconds), limit_s=seconds + 60)
        return measure(job, bench.cores.load).sides[0]


def _reload(many: ManyRoutes, proxy: Running, upstream: Path) -> float:
    """Move a route to `upstream` and reload; return the seconds from the command until the new upstream answers."""
    directory = proxy.service.directory
    config = directory / many.config_name()
    changed = config.with_suffix(".new")
    changed.write_text(many.moved(proxy.service, upstream))
    os.replace(changed, config)
    started = time.monotonic()
    command = [many.executable, "reload", "--runtime-dir", str(directory / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # noqa: S603
    try:
        while not answered_by(proxy.port, MOVED, "sink"):
            if time.monotonic() - started > RELOAD_DEADLINE_S:
                raise RunError(f"{many.name}: the reload has not arrived after {RELOAD_DEADLINE_S:.0f} s")
            if process.poll() not in (None, 0):
                told = process.stdout.read().decode(errors="replace")[-300:] if process.stdout else ""
                raise RunError(f"{many.name}: reload ended with code {process.returncode}: {told}")
            time.sleep(0.01)
        seconds = time.monotonic() - started
        process.wait(RELOAD_DEADLINE_S)
        return seconds
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
