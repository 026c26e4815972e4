"""One pair: two proxies at the same time on the same core, measured by one load process; and the ratios."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from tools.bench.figures import ratio
from tools.bench.job import Job, Result, SideJob, SideResult
from tools.bench.peers import Peer, Service
from tools.bench.ports import free_port
from tools.bench.running import Running, running

ROOT = Path(__file__).resolve().parents[2]

SETTLED_S = 0.2
SETTLE_LIMIT_S = 5.0


class RunError(Exception):
    """A measurement with an error in it; nothing of it may be reported."""


@dataclass(frozen=True)
class Cores:
    """Where things run; None means anywhere, on a machine with one core."""

    proxies: set[int] | None
    load: set[int] | None


def order(index: int, peers: Sequence[Peer]) -> list[Peer]:
    """Return the peers of the pair number `index` in their order: every other pair the other way round."""
    return list(peers) if index % 2 == 0 else list(reversed(peers))


def measure(job: Job, cores: set[int] | None) -> Result:
    """Run a load process and return its figures; RunError when it failed or any side has an error."""
    before = os.sched_getaffinity(0)
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "tools.bench.load"]
    if cores is not None:
        os.sched_setaffinity(0, cores)
    try:
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
    finally:
        os.sched_setaffinity(0, before)
    try:
        output, errors = process.communicate(msgspec.json.encode(job), timeout=job.limit_s + 30)
    except BaseException as error:
        process.kill()
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise RunError("the load process did not end in time") from error
        raise
    if process.returncode:
        raise RunError(f"the load process failed: {errors.decode(errors='replace').strip()[-300:]}")
    result = msgspec.json.decode(output, type=Result)
    if result.failure:
        raise RunError(result.failure)
    check(result, pinned=job.pinned)
    return result


def check(result: Result, *, pinned: bool = True) -> None:
    """RunError when a side has errors, or (`pinned`) the sides did not negotiate the same TLS parameters."""
    for side in result.sides:
        if side.errors:
            raise RunError(f"{side.name}: {'; '.join(sorted(set(side.errors)))}")
    parameters = {side.negotiated for side in result.sides}
    if pinned and len(parameters) > 1:
        told = ", ".join(f"{side.name}: {side.negotiated}" for side in result.sides)
        raise RunError(f"the sides agreed on different TLS parameters ({told})")


def run_pair(
    peers: Sequence[Peer],
    service: Service,
    job: Job,
    cores: Cores,
    idle: dict[str, list[int]] | None = None,
    services: dict[str, Service] | None = None,
) -> dict[str, SideResult]:
    """Start these proxies in this order, put `job` on all of them at once, stop them; figures by name.

    `idle` gives some of them, by name, other numbers of idle connections than the job has, `services` another service.

    RunError also when a process of a proxy came or went meanwhile: its CPU would be missing.
    """
    with contextlib.ExitStack() as stack:
        proxies: list[Running] = []
        for peer in peers:
            here = replace((services or {}).get(peer.name, service), port=free_port())
            proxies.append(stack.enter_context(running(peer, here, cores.proxies)))
        return measure_running(proxies, job, cores.load, idle)


def measure_running(
    proxies: Sequence[Running], job: Job, core: set[int] | None, idle: dict[str, list[int]] | None = None
) -> dict[str, SideResult]:
    """Put `job` on proxies that run already; as :func:`run_pair` in all else."""
    before = [settled_pids(proxy) for proxy in proxies]
    sides = [
        SideJob(name=proxy.peer.name, port=proxy.port, pids=pids, idle=(idle or {}).get(proxy.peer.name))
        for proxy, pids in zip(proxies, before, strict=True)
    ]
    try:
        result = measure(msgspec.structs.replace(job, sides=sides), core)
    except RunError as error:
        told = "; ".join(f"{p.peer.name} says: {tail}" for p in proxies if (tail := p.program.tail(2)))
        raise RunError(f"{error}{'; ' if told else ''}{told}") from error
    for proxy, pids in zip(proxies, before, strict=True):
        if proxy.pids() != pids:
            raise RunError(f"{proxy.peer.name}: its processes changed during the measurement")
    return {side.name: side for side in result.sides}


def settled_pids(proxy: Running) -> list[int]:
    """Return the processes of a proxy once they stay the same: the first worker may answer before the last is born."""
    pids = proxy.pids()
    stable_since = began = time.monotonic()
    while time.monotonic() - stable_since < SETTLED_S and time.monotonic() - began < SETTLE_LIMIT_S:
        time.sleep(0.02)
        now = proxy.pids()
        if now != pids:
            pids, stable_since = now, time.monotonic()
    return pids


def cpu_per_operation_us(side: SideResult, level: int = 0) -> float:
    """Return microseconds of CPU per operation."""
    figures = side.levels[level]
    return figures.cpu_ns / figures.operations / 1000


def cpu_ratio(part: SideResult, whole: SideResult, level: int = 0) -> float:
    """Return the CPU per operation of one side as a ratio to the other's; both must have done the same work."""
    if part.levels[level].operations != whole.levels[level].operations:
        raise ValueError("the sides have not done the same number of operations")
    return ratio(cpu_per_operation_us(part, level), cpu_per_operation_us(whole, level))
