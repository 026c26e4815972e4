"""The benchmark program: ``python -m tools.bench --help``."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

if (
    not __package__
):  # run as `python tools/bench`: the folder's own names must not hide the standard library's
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import click
import msgspec
from click.core import ParameterSource
from rich.console import Console
from rich.markup import escape

from tools.bench import (
    blog,
    blog_report,
    catalogue,
    hold,
    hold_report,
    kernel,
    machine,
    peers,
    plots,
    report,
    suite,
)
from tools.bench.cpu import ProcessGone
from tools.bench.pair import RunError
from tools.bench.peers import Service
from tools.bench.ports import PortTaken
from tools.bench.process import StartFailed, raise_descriptor_limit
from tools.bench.workspace import clean_up_when_terminated, workspace

SMOKE_SCALE = 0.1
SMOKE_PAIRS = 1
PLAIN_WIDTH = 200
FAILURES = (RunError, StartFailed, PortTaken, ProcessGone, kernel.Unreadable, OSError)

_json_file = click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there."
)


_plots = click.option(
    "--plots", "plots_directory", type=click.Path(path_type=Path, file_okay=False),
    help="Draw plots into this directory (SVG; needs matplotlib).",
)  # fmt: skip
_doc_file = click.option(
    "--doc",
    "doc_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the report there as Markdown.",
)


_SAYS_NOTHING = frozenset({"json_file", "doc_file", "plots_directory", "install_peers"})


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)


def _write_json(path: Path | None, figures: msgspec.Struct) -> None:
    if path:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")


def _draw(
    directory: Path | None,
    doc_file: Path | None,
    console: Console,
    drawings: dict[str, Callable[[Path], bool]],
) -> list[str]:
    """Draw what there is to draw; return the files as the document has to name them. Without matplotlib, say so."""
    drawn: list[str] = []
    if directory is None:
        return drawn
    for name, draw in drawings.items():
        path = directory / f"{name}.svg"
        try:
            if draw(path):
                drawn.append(os.path.relpath(path, doc_file.parent if doc_file else "."))
        except plots.NoPlots as error:
            console.print(f"[yellow]no plots:[/yellow] {escape(str(error))}", highlight=False)
            break
    return drawn


def _as_called(context: click.Context) -> str:
    """The command line of this run: only what decides about the figures."""
    words = ["python", "-m", "tools.bench"]
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in _SAYS_NOTHING and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            value = context.params[name]
            words += [parameter.opts[0]] if value is True else [parameter.opts[0], str(value)]
    return shlex.join(words)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", metavar="AXIS[,..]", help="Only these axes; `handshake` stands for `handshake-...`.")
@click.option("--peers", "peer_names", metavar="NAME[,..]", help="Only these proxies, besides the reference.")
@click.option("--pairs", type=click.IntRange(1, 99), default=5, show_default=True, help="Pairs per figure.")
@click.option(
    "--scale", type=click.FloatRange(0.01, 100), default=1.0, help="Multiplies the work in each pair."
)
@click.option("--smoke", is_flag=True, help="Two axes, one short pair: shows that the program works.")
@click.option("--calibrate", is_flag=True, help="Also compare nginx with itself: the noise of this machine.")
@click.option(
    "--before", metavar="COMMAND", help="Compare with another `symphony`, such as one of before a change."
)
@_json_file
@_doc_file
@_plots
@click.option("--install-peers", is_flag=True, help="First install missing proxies (apt-get as root, npm).")
@click.option("--list", "list_axes", is_flag=True, help="List the axes and stop.")
@click.pass_context
def main(
    context: click.Context,
    only: str | None,
    peer_names: str | None,
    pairs: int,
    scale: float,
    smoke: bool,
    calibrate: bool,
    before: str | None,
    json_file: Path | None,
    doc_file: Path | None,
    plots_directory: Path | None,
    install_peers: bool,
    list_axes: bool,
) -> None:
    """Measure Symphony beside other TLS proxies, two at a time on one core: CPU per operation as a ratio to nginx.

    $SYMPHONY_BENCH_COMMAND names another `symphony` command to measure, such as that of another checkout.

    Exits with 1 when a proxy failed on an axis (the report says which); missed targets do not count as failures.

    The commands below measure something else; they take the options that stand behind their names.
    """
    clean_up_when_terminated()
    if context.invoked_subcommand is not None:
        return
    console = _console()
    axes = catalogue.all_axes()
    if list_axes:
        for axis in axes:
            console.print(escape(f"{axis.key:22}{axis.title}"), highlight=False)
        return
    if install_peers:
        for line in peers.install(peers.all_peers()):
            console.print(f"[yellow]not installed:[/yellow] {escape(line)}", highlight=False)
    try:
        chosen = (
            catalogue.select(only.split(","), axes) if only else catalogue.smoke_axes() if smoke else axes
        )
    except catalogue.UnknownAxis as error:
        raise click.UsageError(str(error)) from error
    if smoke:
        pairs, scale = SMOKE_PAIRS, SMOKE_SCALE
    field = suite.choose(peer_names.split(",") if peer_names else [])
    if before is not None:
        if shutil.which(before) is None:
            raise click.UsageError(f"{before} is not a command")
        field = suite.Field([peers.Symphony()], {}, suite.Before(before))
    elif calibrate and not suite.Again().missing():
        field.wanted.append(suite.Again())
    if not field.wanted:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in field.missing.items())
        raise click.ClickException(f"nothing to measure: {reasons}")
    try:
        finished = suite.measure(chosen, field, pairs, scale, console)
    except StartFailed as error:
        raise click.ClickException(str(error)) from error
    finished.command = _as_called(context)
    report.to_terminal(finished, console)
    _write_json(json_file, finished)
    drawings = {
        "ratios": lambda path: plots.ratios(finished, path),
        "latency": lambda path: plots.latencies(finished, path),
    }
    drawn = _draw(plots_directory, doc_file, console, drawings)
    if doc_file:
        doc_file.write_text(report.to_markdown(finished, drawn))
    if any(figure.failure for figure in finished.figures):
        raise SystemExit(1)


@main.command("hold")
@click.option(
    "--connections", "-n", type=click.IntRange(100, 10_000_000), default=20_000, show_default=True,
    help="Idle connections to hold.",
)  # fmt: skip
@click.option(
    "--kind", type=click.Choice(["terminated", "passthrough", "both"]), default="both", show_default=True
)
@click.option("--steps", type=click.IntRange(1, 100), default=4, show_default=True, help="Levels on the way.")
@click.option(
    "--idle-seconds", type=click.FloatRange(0.1, 600), default=10.0, show_default=True,
    help="How long to watch the CPU at each level.",
)  # fmt: skip
@click.option(
    "--minutes", type=click.FloatRange(0.1, 600), default=15.0, show_default=True,
    help="Longest time for opening, for each kind; what is held by then is reported.",
)  # fmt: skip
@click.option(
    "--pairs", type=click.IntRange(0, 99), default=5, show_default=True,
    help="Pairs for the cost of a request with all connections held; 0 leaves it out.",
)  # fmt: skip
@_json_file
@click.option(
    "--doc", "doc_file", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Replace the measured part of this document.",
)  # fmt: skip
@_plots
def hold_command(
    connections: int,
    kind: str,
    steps: int,
    idle_seconds: float,
    minutes: float,
    pairs: int,
    json_file: Path | None,
    doc_file: Path | None,
    plots_directory: Path | None,
) -> None:
    """Hold idle connections through Symphony and measure what each costs in memory, CPU and descriptors.

    Client, proxy and upstream are on this machine; clients use the addresses 127.1.x.y, 25,000 connections each. Takes
    as many acceptors as the limit of open descriptors asks for, and stops before the memory is full. Needs root for
    the kernel's side. 20,000 terminated connections take about a minute, and 100,000 some five, on two cores.
    """
    console = _console()
    text = doc_file.read_text() if doc_file else ""
    if doc_file:
        try:
            hold_report.put_into(text, "")
        except hold_report.NoPlace as error:  # better known now than after the run
            raise click.ClickException(f"{doc_file}: {error}") from error
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    results: list[hold.HoldResult] = []
    failed: dict[str, str] = {}
    kinds = ["terminated", "passthrough"] if kind == "both" else [kind]
    try:
        with workspace(None) as space:
            service = Service(space.directory, 0, space.backend.plain, space.ecdsa)
            for one in kinds:
                console.print(f"[bold]{one}[/bold]")
                deadline = time.monotonic() + 60 * minutes
                wish = hold.Wish(connections, one == "passthrough", steps, idle_seconds, deadline, pairs)
                try:
                    results.append(hold.Hold(wish, service, raise_descriptor_limit(), console.print).run())
                except FAILURES as error:
                    failed[one] = f"{type(error).__name__}: {error}"
    except StartFailed as error:
        raise click.ClickException(str(error)) from error
    for one, reason in failed.items():
        console.print(f"[red]left out:[/red] {one}: {escape(reason)}", highlight=False)
    if not results:
        raise SystemExit(1)
    finished = hold_report.HoldReport(
        started=started,
        seconds=time.monotonic() - clock,
        machine=machine.describe(),
        version=peers.Symphony().version(),
        results=results,
        failed=failed,
    )
    hold_report.to_terminal(finished, console)
    _write_json(json_file, finished)
    drawn = _draw(plots_directory, doc_file, console, {"holding": lambda path: plots.holding(finished, path)})
    if doc_file:
        doc_file.write_text(hold_report.put_into(text, hold_report.to_section(finished, drawn)))
    if failed:
        raise SystemExit(1)


@main.command("blog")
@click.option(
    "--iterations",
    type=click.IntRange(1, 99),
    default=5,
    show_default=True,
    help="Everything afresh, so often.",
)
@click.option(
    "--scale",
    type=click.FloatRange(0.01, 100),
    default=1.0,
    help="Multiplies the requests of each measurement.",
)
@_json_file
@_doc_file
@_plots
def blog_command(
    iterations: int, scale: float, json_file: Path | None, doc_file: Path | None, plots_directory: Path | None
) -> None:
    """Measure an echo application served as plain HTTP, as HTTPS by its own runtime, and behind Symphony.

    The application runs on node when that is installed, else on Python. Bodies of 10, 100, 1,000 and 10,000 bytes;
    takes some eight minutes with five iterations. Exits with 1 when one of the three ways failed and was left out.
    """
    console = _console()
    where, warning = machine.divide(os.sched_getaffinity(0))
    application = blog.find_application()
    described = machine.describe()
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    try:
        with workspace(where.load) as space, suite.progress_bar(console) as progress:
            task = progress.add_task("starting", total=iterations * len(blog.WAYS))
            points, failed = blog.run(
                space, where, application, iterations, scale,
                lambda text: progress.update(task, description=text),
                lambda: progress.advance(task),
            )  # fmt: skip
    except FAILURES as error:
        raise click.ClickException(f"{type(error).__name__}: {error}") from error
    finished = blog.EchoReport(
        started=started,
        seconds=time.monotonic() - clock,
        application=application.name,
        symphony=peers.Symphony().version(),
        iterations=iterations,
        machine=described,
        points=points,
        failed=failed,
        warnings=[warning] if warning else [],
    )
    blog_report.to_terminal(finished, console)
    _write_json(json_file, finished)
    drawn = _draw(plots_directory, doc_file, console, {"echo": lambda path: plots.echo(finished, path)})
    if doc_file:
        doc_file.write_text(blog_report.to_markdown(finished, drawn))
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="bench")
