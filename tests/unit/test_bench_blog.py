"""The echo benchmark's arithmetic and report, and the plots."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tools.bench import blog, blog_report, plots
from tools.bench.blog import EchoPoint, EchoReport
from tools.bench.content import request_for
from tools.bench.outcome import Machine

_P50 = {"plain": (100.0, 102.0, 98.0), "symphony": (150.0, 150.0, 165.0)}


@pytest.fixture
def report() -> EchoReport:
    points = [
        EchoPoint(
            way=way, size=size, iteration=iteration, p50_us=p50 + size / 100, p99_us=3 * p50,
            per_second=1e6 / p50, cpu_us=p50 / 2,
        )
        for way, values in _P50.items()
        for size in blog.SIZES
        for iteration, p50 in enumerate(values)
    ]  # fmt: skip
    machine = Machine(
        processor="A CPU", cores=2, memory_mb=1000, kernel="6", python="3", openssl="4", descriptors=1000,
        load_average=0.1,
    )  # fmt: skip
    return EchoReport(
        started="2026-01-01T00:00:00+00:00",
        seconds=60,
        application="node 20",
        symphony="0.1.0",
        iterations=3,
        machine=machine,
        points=points,
        failed={"https": "RunError: https: closed"},
        warnings=[],
    )


def test_an_echo_is_what_was_sent() -> None:
    request, body = request_for("echo-1000")
    assert len(body) == 1000
    assert request.endswith(b"Content-Length: 1000\r\n\r\n" + body)
    assert request_for("echo-10")[1] != request_for("echo-100")[1][:10]
    with pytest.raises(ValueError, match="unknown operation 'echo-x'"):
        request_for("echo-x")


def test_every_way_comes_first_in_turn() -> None:
    assert [blog.rotated(("a", "b", "c"), i) for i in range(4)] == [
        list("abc"),
        list("bca"),
        list("cab"),
        list("abc"),
    ]


def test_jitter_is_the_range_of_the_medians(report: EchoReport) -> None:
    p50 = blog.of(report.points, "symphony", 10, lambda point: point.p50_us)
    assert p50 is not None
    assert blog.jitter(p50) == pytest.approx(15 / 150.1)
    assert blog.of(report.points, "https", 10, lambda point: point.p50_us) is None


def test_the_report_leaves_out_what_failed_and_says_so(report: EchoReport) -> None:
    _, rows = blog_report.rows_of(report)
    assert len(rows) == len(blog.SIZES) * len(blog.WAYS)
    assert rows[0] == [
        "10",
        "plain HTTP",
        "100 (98-102)",
        "4%",
        "300 (294-306)",
        "10000 (9804-10204)",
        "50 (49-51)",
    ]
    assert rows[1][:3] == ["10", "HTTPS by its own runtime", "failed"]
    text = blog_report.to_markdown(report, ["plots/echo.svg"])
    assert "- HTTPS by its own runtime failed and is left out: RunError: https: closed" in text
    assert "![p50 of every iteration](plots/echo.svg)" in text
    assert msgspec.json.decode(msgspec.json.encode(report), type=EchoReport) == report


def test_the_application_is_found_or_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    application = blog.find_application()
    assert "node is not installed" in application.name
    assert application.program[-1].endswith("app.py")


def test_without_matplotlib_there_are_no_plots(
    report: EchoReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(plots.NoPlots, match="matplotlib is not installed"):
        plots.echo(report, tmp_path / "echo.svg")
    assert list(tmp_path.iterdir()) == []


needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)
# Importing it warns about its own dependencies, depending on their versions.
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@needs_matplotlib
@quiet
def test_a_plot_shows_every_point_once_and_the_same_again(report: EchoReport, tmp_path: Path) -> None:
    assert plots.echo(report, tmp_path / "deep" / "echo.svg")
    first = (tmp_path / "deep" / "echo.svg").read_text()
    assert "10,000 bytes" in first
    assert first.count("<use ") >= len(report.points)
    assert plots.echo(report, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == first


@needs_matplotlib
@quiet
@pytest.mark.parametrize("draw", [plots.echo, plots.ratios, plots.latencies, plots.holding])
def test_with_nothing_to_draw_there_is_no_file(draw: Callable[[object, Path], bool], tmp_path: Path) -> None:
    class Empty:
        points = figures = results = ()

    assert not draw(Empty(), tmp_path / "none.svg")
    assert list(tmp_path.iterdir()) == []
