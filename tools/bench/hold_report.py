"""What holding connections has shown: tables for a terminal, and the measured part of a document."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from rich.console import Console
from rich.table import Table as RichTable

from tools.bench import capacity
from tools.bench.hold import HoldResult
from tools.bench.markdown import table
from tools.bench.outcome import Machine

BEGIN = "<!-- measured by `python -m tools.bench hold`: what stands here is written anew by it -->"
END = "<!-- end of what was measured -->"
PLANNED = tuple(
    capacity.Machine(memory_gib=memory, cores=cores)
    for memory, cores in ((4, 2), (16, 4), (32, 8), (64, 16), (128, 32), (256, 64))
)
Rows = tuple[list[str], list[list[str]]]


class HoldReport(Struct, kw_only=True):
    """A run: one result for each kind of connection, or why there is none."""

    started: str
    seconds: float
    machine: Machine
    version: str
    results: list[HoldResult]
    failed: dict[str, str]


class NoPlace(ValueError):
    """The document has no place for what was measured."""


def kind(result: HoldResult) -> str:
    """Return what the connections were."""
    return "passthrough" if result.passthrough else "terminated"


def costs_table(results: list[HoldResult]) -> Rows:
    """Return what one idle connection costs the proxy, a kind of connection per column."""
    rows = {
        "memory of the proxy's processes": [f"{r.costs.user_bytes / 1024:.2f} KB" for r in results],
        "memory of the kernel, the proxy's half": [f"{r.costs.kernel_bytes / 1024:.2f} KB" for r in results],
        "descriptors": [f"{r.costs.descriptors:.2f}" for r in results],
        "CPU while idle": [_idle(r.costs) for r in results],
        "CPU to accept it, with handshake and first message": [f"{r.opening_cpu_us:.0f} µs" for r in results],
        "an acceptor without connections": [f"{r.costs.acceptor_bytes / 2**20:.1f} MB" for r in results],
        "all other processes": [f"{r.costs.tree_bytes / 2**20:.1f} MB" for r in results],
    }
    return ["for each", *map(kind, results)], [[name, *cells] for name, cells in rows.items()]


def _idle(costs: capacity.Costs) -> str:
    """Return the CPU of an idle connection, or the number below which it is lost in chance."""
    if costs.idle_ns_per_s > costs.idle_noise_ns_per_s / 2:
        return f"{costs.idle_ns_per_s:.0f} ns/s"
    return f"none seen; less than {costs.idle_noise_ns_per_s:.0f} ns/s"


def run_table(results: list[HoldResult]) -> Rows:
    """Return how far the run went, a kind of connection per column."""
    rows: dict[str, list[str]] = {
        "connections held": [f"{r.levels[-1].held:,}" for r in results],
        "wanted": [f"{r.wanted:,}" + (f"; stopped: {r.stopped}" if r.stopped else "") for r in results],
        "acceptors": [str(r.acceptors) for r in results],
        "connections of the emptiest and fullest": [
            f"{r.levels[-1].fewest:,} to {r.levels[-1].most:,}" for r in results
        ],
        "processes of the clients, each with an address": [str(r.clients) for r in results],
        "opened per second, with everything on this machine": [f"{_rate(r):,.0f}" for r in results],
        "memory of the proxy's processes": [f"{r.levels[-1].user_bytes / 2**20:,.0f} MB" for r in results],
        "memory of the kernel, both ends": [f"{r.levels[-1].kernel_bytes / 2**20:,.0f} MB" for r in results],
        "asked again at the end, all answered": [f"{r.checked:,}" for r in results],
        "CPU of a small request, to the same proxy with none": [
            r.active.text() if r.active else "not measured" for r in results
        ],
    }
    return ["the largest run", *map(kind, results)], [[name, *cells] for name, cells in rows.items()]


def _rate(result: HoldResult) -> float:
    return result.levels[-1].held / sum(level.seconds for level in result.levels)


def caches_table(results: list[HoldResult]) -> Rows:
    """Return which of the kernel's caches hold a connection."""
    names = sorted({n for r in results for n in r.caches}, key=lambda n: -results[0].caches.get(n, 0.0))
    rows = [[f"`{name}`", *(f"{r.caches.get(name, 0.0):.0f}" for r in results)] for name in names]
    return ["cache, bytes a connection", *map(kind, results)], rows


def levels_table(results: list[HoldResult]) -> Rows:
    """Return every level of every run."""
    rows = [
        [
            kind(result),
            f"{level.held:,}",
            f"{level.user_bytes / 2**20:,.1f}",
            f"{level.kernel_bytes / 2**20:,.1f}",
            f"{level.descriptors:,}",
            f"{level.idle_ns_per_s / 1e6:.1f}",
        ]
        for result in results
        for level in result.levels
    ]
    head = ["kind", "held", "processes, MB", "kernel, both ends, MB", "descriptors", "CPU while idle, ms/s"]
    return head, rows


def plan_table(results: list[HoldResult]) -> Rows:
    """Return what machines of several sizes hold, by these costs."""
    rows = []
    for machine in PLANNED:
        for result in results:
            plan = capacity.plan(machine, result.costs, result.opening_cpu_us)
            rows.append(
                [
                    f"{machine.memory_gib} GiB, {machine.cores} cores",
                    kind(result),
                    f"{plan.connections:,}",
                    f"{plan.descriptors_per_acceptor:,}",
                    f"{plan.reconnect_s:.0f} s",
                ]
            )
    head = [
        "machine",
        "connections",
        "idle at once",
        "descriptors an acceptor",
        "all come back in",
    ]
    return head, rows


def limits_table(results: list[HoldResult]) -> Rows:
    """Return the limits of this machine."""
    return ["limit", "here"], [[f"`{name}`", value] for name, value in results[0].limits.items()]


def to_terminal(report: HoldReport, console: Console) -> None:
    """Print the tables that a person at a terminal wants."""
    for head, rows in (costs_table(report.results), run_table(report.results), plan_table(report.results)):
        shown = RichTable(*head)
        for row in rows:
            shown.add_row(*row)
        console.print(shown)


def to_section(report: HoldReport, images: Sequence[str] = ()) -> str:
    """Return the measured part of a document, with images at these paths."""
    machine, results = report.machine, report.results
    parts = [
        *(f"{name} connections failed and are left out: {reason}" for name, reason in report.failed.items()),
        "### What an idle connection costs",
        table(*costs_table(results)),
        "### What machines hold by that",
        table(*plan_table(results)),
        "### The largest run here",
        table(*run_table(results)),
        "Level by level:",
        *(f"![memory over connections]({image})" for image in images),
        table(*levels_table(results)),
        "### Where the kernel keeps a connection",
        "Bytes of the proxy's half; caches with objects of one size share the name of the first.",
        table(*caches_table(results)),
        "### The machine",
        f"{machine.processor}, {machine.cores} cores, {machine.memory_mb:,} MB, Linux {machine.kernel}, Python "
        f"{machine.python}, {machine.openssl}, Symphony {report.version}; {report.started}, "
        f"{report.seconds / 60:.0f} minutes.",
        table(*limits_table(results)),
    ]
    return "\n\n".join(parts)


def put_into(document: str, section: str) -> str:
    """Return a document with its measured part replaced. Raises NoPlace when it has no such part."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise NoPlace(f"the document has no lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{section}\n\n{END}{after}"
