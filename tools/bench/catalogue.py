"""The list of all axes with their numbers, and how a user names some of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tools.bench.against import Against
from tools.bench.axes import (
    Acceptors,
    AcceptRate,
    Axis,
    CpuAxis,
    IdleGrowth,
    Latency,
    MemoryAxis,
    Ready,
    replace_job,
)
from tools.bench.job import Job
from tools.bench.peers import Symphony
from tools.bench.protected import PARTS, Protected
from tools.bench.reload import ManyRoutes, Reload


class UnknownAxis(ValueError):
    """No axis has this name; says which there are."""


def _handshake(version: str, *, resume: bool = False) -> Job:
    return Job(
        kind="fresh", sides=[], version=version, resume=resume, connections=10, warmup=100, operations=1000
    )


def _as_they_come(title: str, job: Job, key: str, limit: float) -> CpuAxis:
    title = f"{title}, each with the cipher that it prefers"
    return CpuAxis(f"preferred-{key}", title, replace_job(job, pinned=False), limit=limit)


def _small(connections: int) -> Job:
    return Job(kind="closed", sides=[], connections=connections, warmup=2000, operations=15_000)


def _bulk(request: str, operations: int = 300) -> Job:
    return Job(kind="closed", sides=[], request=request, connections=4, warmup=20, operations=operations)


def all_axes() -> list[Axis]:
    """Return every axis in the order of the report."""
    full = "connect, full handshake, one request"
    return [
        CpuAxis("handshake-ecdsa-1.3", f"{full} (ECDSA P-256, TLS 1.3)", _handshake("1.3"), limit=0.92),
        CpuAxis("handshake-ecdsa-1.2", f"{full} (ECDSA P-256, TLS 1.2)", _handshake("1.2"), limit=0.92),
        CpuAxis("handshake-rsa-1.3", f"{full} (RSA-2048, TLS 1.3)", _handshake("1.3"), "rsa", limit=0.92),
        CpuAxis("handshake-rsa-1.2", f"{full} (RSA-2048, TLS 1.2)", _handshake("1.2"), "rsa", limit=0.92),
        CpuAxis(
            "resumed-1.3",
            "resumed handshake, one request (TLS 1.3)",
            _handshake("1.3", resume=True),
            limit=0.95,
        ),
        CpuAxis(
            "resumed-1.2",
            "resumed handshake, one request (TLS 1.2)",
            _handshake("1.2", resume=True),
            limit=0.95,
        ),
        _as_they_come(f"{full} (ECDSA P-256, TLS 1.3)", _handshake("1.3"), "handshake", 0.92),
        _as_they_come(
            "resumed handshake, one request (TLS 1.3)", _handshake("1.3", resume=True), "resumed", 0.95
        ),
        _as_they_come("1 MiB down", _bulk("down"), "down", 0.92),
        CpuAxis("small-1", "small request, 1 kept connection", _small(1), limit=1.05),
        CpuAxis("small-25", "small request, 25 kept connections", _small(25), limit=1.05),
        CpuAxis("small-500", "small request, 500 kept connections", _small(500), limit=1.05),
        CpuAxis("down", "1 MiB down", _bulk("down"), limit=0.92),
        CpuAxis("up", "1 MiB up", _bulk("up"), upstream="sink", limit=0.95),
        CpuAxis("both", "1 MiB up and 1 MiB down at once", _bulk("both", 200), upstream="sink"),
        CpuAxis(
            "pass-small", "passthrough: small request, 25 connections", _small(25), upstream="tls", limit=1.2
        ),
        CpuAxis("pass-bulk", "passthrough: 1 MiB down", _bulk("down"), upstream="tls", limit=0.72),
        CpuAxis(
            "proxy-header",
            f"{full}, with a PROXY header to the upstream",
            _handshake("1.3"),
            upstream="proxied",
        ),
        Against(
            "proxy-header-cost",
            f"{full}: with a PROXY header (version 2) to the upstream against without",
            _handshake("1.3"),
            Symphony,
            Symphony,
            "Symphony without",
            upstream="proxied",
        ),
        Against(
            "protection-handshake",
            f"{full}: with [protection] against without",
            _handshake("1.3"),
            Protected,
            Symphony,
            "Symphony without",
            limit=1.05,
        ),
        *(
            Against(
                f"protection-{part}",
                f"{full}: with only the {part} of [protection] against without",
                _handshake("1.3"),
                partial(Protected, [part]),
                Symphony,
                "Symphony without",
            )
            for part in PARTS
        ),
        Against(
            "protection-small",
            "small request, 25 kept connections: with [protection] against without",
            _small(25),
            Protected,
            Symphony,
            "Symphony without",
        ),
        MemoryAxis("memory", "idle connection, terminated", limit_kb=22),
        MemoryAxis("memory-pass", "idle connection, passthrough", upstream="tls", limit_kb=4),
        IdleGrowth(),
        AcceptRate(),
        Latency(),
        Acceptors(),
        *(
            Against(
                f"lookup-{routes}",
                f"{full}: {routes:,} routes against 10",
                _handshake("1.3"),
                partial(ManyRoutes, routes),
                partial(ManyRoutes, 10),
                "Symphony with 10 routes",
                limit=1.03,
            )
            for routes in (1_000, 100_000)
        ),
        Reload(),
        Ready(),
    ]


def select(names: Sequence[str], axes: Sequence[Axis]) -> list[Axis]:
    """Return the axes with these names; a name also stands for all that begin with it and a hyphen."""
    chosen: list[Axis] = []
    for name in names:
        found = [axis for axis in axes if axis.key == name or axis.key.startswith(f"{name}-")]
        if not found:
            raise UnknownAxis(f"no axis {name!r}; there are {', '.join(axis.key for axis in axes)}")
        chosen += [axis for axis in found if axis not in chosen]
    return [axis for axis in axes if axis in chosen]


def smoke_axes() -> list[Axis]:
    """Return two axes that take a few seconds: they show that the benchmark works, not how fast anything is."""
    return select(["small-25", "handshake-ecdsa-1.3"], all_axes())
