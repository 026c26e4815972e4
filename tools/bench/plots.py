"""Plots, as SVG, where looking beats reading. Drawn with matplotlib, which is optional: without it there are none."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tools.bench.axes import CPU
from tools.bench.blog import SIZES, TITLES, WAYS, EchoReport
from tools.bench.figures import Spread
from tools.bench.hold import HoldLevel, HoldResult
from tools.bench.hold_report import HoldReport, kind
from tools.bench.outcome import Figure, Report

MISSING = "matplotlib is not installed, so there are no plots (pip install '.[bench]')"
_COLOURS = ("#c8102e", "#2f6f9f", "#5f9e6e", "#b5852a", "#7d5fa3", "#777777", "#3aa6a6")
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "symphony", "font.size": 9, "axes.axisbelow": True}


class NoPlots(Exception):
    """Nothing can be drawn here; says why."""


def check() -> None:
    """Raise NoPlots when matplotlib is not there: better known before a run than after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise NoPlots(MISSING)


def _draw(path: Path, size: tuple[float, float], columns: int, fill: Callable[[Sequence[Any]], None]) -> None:
    """Make a figure with axes side by side, let `fill` draw in them, and write it. The same data, the same bytes."""
    check()
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with matplotlib.rc_context(_STYLE):
        figure, axes = pyplot.subplots(1, columns, figsize=size, squeeze=False, layout="constrained")
        fill(axes[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def _dots(axes: Any, labels: Sequence[str], rows: dict[str, list[Spread | None]]) -> None:
    """Draw a dot with its range for every label (from the top down) and every named row of spreads."""
    height = 0.7 / max(1, len(rows))
    for index, (name, spreads) in enumerate(rows.items()):
        points = [(i, s) for i, s in enumerate(spreads) if s is not None]
        middle = [s.median for _, s in points]
        below = [s.median - s.low for _, s in points]
        above = [s.high - s.median for _, s in points]
        places = [i + (index - (len(rows) - 1) / 2) * height for i, _ in points]
        colour = _COLOURS[index % len(_COLOURS)]
        axes.errorbar(
            middle, places, xerr=(below, above), fmt="o", ms=4, lw=1.2, capsize=2, color=colour, label=name
        )
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(axis="x", color="#dddddd")
    axes.legend(fontsize=8)


def _by_title(figures: Sequence[Figure]) -> tuple[list[str], dict[str, list[Spread | None]]]:
    """Return the titles in their order, and for every proxy its ratio under each of them."""
    titles = list(dict.fromkeys(figure.title for figure in figures))
    rows: dict[str, list[Spread | None]] = {}
    for figure in figures:
        rows.setdefault(figure.peer, [None] * len(titles))[titles.index(figure.title)] = figure.ratio
    return titles, rows


def ratios(report: Report, path: Path) -> bool:
    """Draw CPU per operation of every proxy as a ratio to the reference; False when there is nothing to draw."""
    figures = [f for f in report.figures if f.metric == CPU and f.ratio is not None and not f.against]
    if not figures:
        return False
    titles, rows = _by_title(figures)
    targets = {
        figure.title: figure.target.limit
        for figure in figures
        if figure.target is not None and figure.target.of == "ratio"
    }

    def fill(axes: Sequence[Any]) -> None:
        (only,) = axes
        only.axvline(1.0, color="#777777", lw=1)
        for place, title in enumerate(titles):
            if title in targets:
                limit = targets[title]
                only.plot([limit, limit], [place - 0.4, place + 0.4], color="#222222", lw=1, ls=":")
        _dots(only, titles, rows)
        only.set_xlabel(f"CPU per operation, ratio to {report.reference} (dotted: target)")

    _draw(path, (9.0, 1.0 + 0.16 * len(titles) * max(3, len(rows))), 1, fill)
    return True


def latencies(report: Report, path: Path) -> bool:
    """Draw the percentiles of latency of every proxy; False when there is nothing to draw."""
    figures = [f for f in report.figures if f.axis == "latency" and f.value is not None]
    if not figures:
        return False
    names = list(dict.fromkeys(figure.metric for figure in figures))
    rows: dict[str, list[Spread | None]] = {}
    for figure in figures:
        rows.setdefault(figure.peer, [None] * len(names))[names.index(figure.metric)] = figure.value
        if figure.reference is not None and report.reference:
            place = rows.setdefault(report.reference, [None] * len(names))
            place[names.index(figure.metric)] = place[names.index(figure.metric)] or figure.reference

    def fill(axes: Sequence[Any]) -> None:
        (only,) = axes
        _dots(only, names, rows)
        only.set_xscale("log")
        for scale in (only.xaxis.set_major_formatter, only.xaxis.set_minor_formatter):
            scale(lambda value, _place: f"{value:,.0f}")
        only.tick_params(axis="x", which="minor", labelsize=7)
        only.set_xlabel("latency, µs")
        only.set_title(figures[0].title, fontsize=9)

    _draw(path, (9.0, 4.0), 1, fill)
    return True


def echo(report: EchoReport, path: Path) -> bool:
    """Draw the p50 of every iteration, a panel for each size; False when there is nothing to draw."""
    if not report.points:
        return False

    def fill(axes: Sequence[Any]) -> None:
        for panel, size in zip(axes, SIZES, strict=True):
            for place, way in enumerate(WAYS):
                found = [p for p in report.points if p.way == way and p.size == size]
                if not found:
                    continue
                offsets = [place + 0.12 * (p.iteration - (report.iterations - 1) / 2) for p in found]
                panel.plot(offsets, [p.p50_us for p in found], "o-", ms=4, lw=0.8, color=_COLOURS[place])
            panel.set_xticks(
                range(len(WAYS)), [TITLES[way].replace(" ", "\n", 1) for way in WAYS], fontsize=7
            )
            panel.set_xlim(-0.6, len(WAYS) - 0.4)
            panel.set_title(f"{size:,} bytes", fontsize=9)
            panel.grid(axis="y", color="#dddddd")
            panel.set_ylim(bottom=0)
        axes[0].set_ylabel("p50 of each iteration, µs")

    _draw(path, (11.0, 3.4), len(SIZES), fill)
    return True


def holding(report: HoldReport, path: Path) -> bool:
    """Draw memory over connections held, a panel for each kind; False when there is nothing to draw."""
    lines: tuple[tuple[str, Callable[[HoldLevel], float]], ...] = (
        ("the proxy's processes", lambda level: level.user_bytes / 2**20),
        ("the kernel, the proxy's half", lambda level: level.kernel_bytes / 2 / 2**20),
    )

    def panel(axes: Any, result: HoldResult) -> None:
        for colour, (name, value) in zip(_COLOURS, lines, strict=False):
            held = [level.held for level in result.levels]
            axes.plot(
                held, [value(level) for level in result.levels], "o-", ms=4, lw=1, color=colour, label=name
            )
        axes.set_title(kind(result), fontsize=9)
        axes.set_xlabel("idle connections held")
        axes.set_ylabel("MB")
        axes.set_ylim(bottom=0)
        axes.grid(color="#dddddd")
        axes.legend(fontsize=8)

    def fill(axes: Sequence[Any]) -> None:
        for one, result in zip(axes, report.results, strict=True):
            panel(one, result)

    if not report.results:
        return False
    _draw(path, (4.8 * len(report.results), 3.4), len(report.results), fill)
    return True
