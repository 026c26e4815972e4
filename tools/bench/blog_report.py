"""What the echo application's three ways of being served have shown: tables for a terminal and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from tools.bench.blog import CONNECTIONS, RATE, SIZES, TITLES, WAYS, EchoReport, jitter, of
from tools.bench.markdown import table

_METHOD = (
    "An application that answers every request with its body, on {application}: served as plain HTTP, as HTTPS by its "
    "own runtime, and as plain HTTP on a Unix socket behind Symphony, which does the TLS (1.3, ECDSA P-256). "
    "Application and proxy share one core; the load has another. Latency is that of {rate} requests a second over "
    "{connections} kept connections, counted from the moment that each was due; throughput and CPU are those of "
    "{connections} connections with a request under way at all times. Every answer was compared byte for byte. A cell "
    "is the median of {iterations} iterations, each with everything started afresh, with the smallest and the largest "
    "in parentheses. Jitter is how far the iterations' medians lie apart, as a part of their median."
)


def rows_of(report: EchoReport) -> tuple[list[str], list[list[str]]]:
    """Return head and rows: a size and a way per row."""
    rows = []
    for size in SIZES:
        for way in WAYS:
            p50 = of(report.points, way, size, lambda point: point.p50_us)
            p99 = of(report.points, way, size, lambda point: point.p99_us)
            rate = of(report.points, way, size, lambda point: point.per_second)
            cpu = of(report.points, way, size, lambda point: point.cpu_us)
            if p50 is None or p99 is None or rate is None or cpu is None:
                rows.append([f"{size:,}", TITLES[way], "failed", "", "", "", ""])
                continue
            rows.append(
                [
                    f"{size:,}",
                    TITLES[way],
                    p50.text(0),
                    f"{jitter(p50):.0%}",
                    p99.text(0),
                    rate.text(0),
                    cpu.text(0),
                ]
            )
    return ["bytes", "served", "p50 µs", "jitter", "p99 µs", "requests/s", "CPU µs a request"], rows


def to_terminal(report: EchoReport, console: Console) -> None:
    """Print the table, what was left out, and what is to be known."""
    head, rows = rows_of(report)
    shown = RichTable(*head, title=f"echo application on {report.application}")
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    for way, reason in report.failed.items():
        console.print(f"[red]left out:[/red] {TITLES[way]}: {escape(reason)}", highlight=False)
    for line in report.warnings:
        console.print(f"[yellow]note:[/yellow] {escape(line)}", highlight=False)


def to_markdown(report: EchoReport, images: Sequence[str] = ()) -> str:
    """Return the document, with images at these paths."""
    machine = report.machine
    method = _METHOD.format(
        application=report.application, rate=RATE, connections=CONNECTIONS, iterations=report.iterations
    )
    notes = [f"{TITLES[way]} failed and is left out: {reason}" for way, reason in report.failed.items()]
    parts = [
        "# An application with its own TLS, and behind Symphony",
        "Written by `python -m tools.bench blog`; run it to get the figures of your own machine.",
        method,
        table(*rows_of(report)),
        *(f"![p50 of every iteration]({image})" for image in images),
        *(
            ["\n".join(f"- {line}" for line in [*notes, *report.warnings])]
            if notes or report.warnings
            else []
        ),
        f"{machine.processor}, {machine.cores} cores, Linux {machine.kernel}, {machine.openssl}, Symphony "
        f"{report.symphony}; load average at the start {machine.load_average}; {report.started}, "
        f"{report.seconds / 60:.0f} minutes.",
    ]
    return "\n\n".join(parts) + "\n"
