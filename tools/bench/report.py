"""The report: tables for a terminal (rich), Markdown and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tools.bench.axes import CPU
from tools.bench.markdown import table
from tools.bench.outcome import Figure, Report

_METHOD = (
    "Two proxies run at the same time on the same core with the same certificate, backend and client; load and "
    "backend run on another core. Each side gets exactly the same number of operations, interleaved with the "
    "other's. Counted is the CPU of all processes of a side, from the kernel's account of them. A cell is the median "
    "over the pairs with the smallest and the largest in parentheses; every pair is started afresh and the order "
    "alternates. Every answer was compared byte for byte. A ratio below 1 means less CPU than {reference}."
)


def ratio_cell(figure: Figure) -> str:
    """Return a ratio with its range, or the value when nothing was there to compare with."""
    if figure.failure:
        return "failed"
    if figure.ratio is not None:
        return figure.ratio.text()
    return f"{figure.value.median:.1f} {figure.unit}" if figure.value is not None else "-"


def value_cell(figure: Figure) -> str:
    """Return a value with its unit and range."""
    if figure.failure:
        return "failed"
    if figure.value is None:
        return "-"
    digits = 2 if figure.value.median < 10 else 1 if figure.value.median < 100 else 0
    return f"{figure.value.text(digits)} {figure.unit}".rstrip()


def target_cell(figure: Figure) -> str:
    """Return the target and whether it is met."""
    if figure.target is None:
        return ""
    unit = "" if figure.target.of == "ratio" else f" {figure.unit}".rstrip()
    verdict = {True: "met", False: "MISSED", None: "not measured"}[figure.met]
    return f"≤ {figure.target.limit:g}{unit}: {verdict}"


def shortfalls(report: Report) -> list[str]:
    """Return what falls short, one line each: missed targets first, then what could not be measured."""
    lines = []
    for figure in report.figures:
        if figure.met is False:
            cell = ratio_cell(figure) if figure.target and figure.target.of == "ratio" else value_cell(figure)
            lines.append(
                f"{figure.title}, {figure.metric}: {cell}, target {target_cell(figure).split(':')[0]}"
            )
    lines += [f"{f.title}: {f.peer} failed and is left out: {f.failure}" for f in report.figures if f.failure]
    return lines


def _nothing_short(report: Report) -> str:
    if any(figure.met for figure in report.figures):
        return "Nothing: every target that was measured is met."
    return "Not known: nothing that has a target was measured in this run."


def _is_cpu(figure: Figure) -> bool:
    return figure.metric == CPU and not figure.against


def _by_axis(figures: Iterable[Figure]) -> dict[str, dict[str, Figure]]:
    rows: dict[str, dict[str, Figure]] = {}
    for figure in figures:
        rows.setdefault(figure.title, {})[figure.peer] = figure
    return rows


def ratio_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of CPU ratios: an axis per row, a proxy per column."""
    figures = [figure for figure in report.figures if _is_cpu(figure)]
    names = list(dict.fromkeys(figure.peer for figure in figures))
    head = ["operation", *names, "symphony µs", f"{report.reference or 'reference'} µs", "target"]
    rows = []
    for title, cells in _by_axis(figures).items():
        own = cells.get("symphony")
        rows.append(
            [
                title,
                *(ratio_cell(cells[name]) if name in cells else "-" for name in names),
                f"{own.value.median:.0f}" if own and own.value else "-",
                f"{own.reference.median:.0f}" if own and own.reference else "-",
                target_cell(own) if own else "",
            ]
        )
    return head, rows


def against_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of what something costs Symphony: with it, without it, at the same time."""
    rows = [
        [
            figure.title,
            value_cell(figure),
            value_cell(msgspec.structs.replace(figure, value=figure.reference)),
            figure.against,
            figure.ratio.text() if figure.ratio else "-",
            target_cell(figure),
        ]
        for figure in report.figures
        if figure.against
    ]
    return ["operation", "symphony with it", "without", "which is", "ratio", "target"], rows


def value_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of all other figures: a figure per row, a proxy per column, the reference last.

    The reference was measured beside every proxy; shown is what it had beside Symphony, or else beside the first.
    """
    figures = [figure for figure in report.figures if not _is_cpu(figure) and not figure.against]
    names = list(dict.fromkeys(figure.peer for figure in figures))
    grouped: dict[tuple[str, str], dict[str, Figure]] = {}
    for figure in figures:
        grouped.setdefault((figure.title, figure.metric), {})[figure.peer] = figure
    rows = []
    for (title, metric), cells in grouped.items():
        main = cells.get("symphony") or next(iter(cells.values()))
        other = value_cell(msgspec.structs.replace(main, value=main.reference)) if main.reference else "-"
        note = f" ({main.note})" if main.note else ""
        rows.append(
            [
                title,
                metric + note,
                *(value_cell(cells[name]) if name in cells else "-" for name in names),
                other,
                main.ratio.text() if main.ratio and main.peer == "symphony" else "",
                target_cell(main),
            ]
        )
    last = [report.reference or "reference", "symphony to it", "target"]
    return ["axis", "figure", *names, *last], rows


def to_terminal(report: Report, console: Console) -> None:
    """Print the tables, what falls short, and what was left out."""
    for title, (head, rows) in (
        (f"CPU per operation, ratio to {report.reference or 'nothing'}", ratio_table(report)),
        ("What something costs Symphony", against_table(report)),
        ("Other figures", value_table(report)),
    ):
        if not rows:
            continue
        shown = Table(*head, title=title, show_lines=False)
        for row in rows:
            shown.add_row(*(_coloured(cell) for cell in row))
        console.print(shown)
    for line in shortfalls(report):
        console.print(f"[red]falls short:[/red] {escape(line)}", highlight=False)
    for name, reason in report.missing.items():
        console.print(f"[yellow]left out:[/yellow] {name}: {escape(reason)}", highlight=False)
    for line in report.warnings:
        console.print(f"[yellow]note:[/yellow] {escape(line)}", highlight=False)


def _coloured(text: str) -> str:
    cell = escape(text)
    if cell.endswith(": met"):
        return f"[green]{cell}[/green]"
    return f"[red]{cell}[/red]" if cell.endswith("MISSED") or cell == "failed" else cell


def to_markdown(report: Report, images: Sequence[str] = ()) -> str:
    """Return the document, with what falls short first and images at these paths."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; run it to get the figures of your own machine.",
        "",
        "## What falls short",
        "",
        *([f"- {line}" for line in shortfalls(report)] or [_nothing_short(report)]),
        "",
        "## CPU per operation",
        "",
        _METHOD.format(reference=report.reference or "the reference"),
        "",
    ]
    for section, (head, rows) in (
        ("", ratio_table(report)),
        ("## What something costs Symphony", against_table(report)),
        ("## Other figures", value_table(report)),
    ):
        if rows:
            lines += [section, ""] if section else []
            lines += [table(head, rows), ""]
    for image in images:
        lines += [f"![{Path(image).stem}]({image})", ""]
    left_out = [f"- {name}: {reason}" for name, reason in report.missing.items()]
    left_out += [f"- {line}" for line in report.warnings]
    if left_out:
        lines += ["## Left out", "", *left_out, ""]
    lines += [
        "## Machine and versions",
        "",
        f"- {machine.processor}, {machine.cores} cores, {machine.memory_mb} MB, Linux {machine.kernel}, at most "
        f"{machine.descriptors:,} descriptors per process, load average at the start {machine.load_average}",
        f"- {versions}; Python {machine.python}, {machine.openssl} in Symphony and in the client",
        f"- {report.started}, {report.pairs} pairs per figure, {report.seconds / 60:.0f} minutes",
        *([f"- by `{report.command}`"] if report.command else []),
        "",
    ]
    return "\n".join(lines)
