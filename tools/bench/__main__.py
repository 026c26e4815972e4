"""The benchmark program: ``python -m tools.bench --help``."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

if (
    not __package__
):  # run as `python tools/bench`: the folder's own names must not hide the standard library's
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tools.bench import catalogue, certs, machine, peers, report
from tools.bench.axes import Axis, Bench
from tools.bench.backend import Backend
from tools.bench.content import SERVER_NAME
from tools.bench.cpu import ProcessGone
from tools.bench.outcome import Figure, Report
from tools.bench.pair import ROOT, RunError
from tools.bench.peers import Peer, Symphony
from tools.bench.ports import PortTaken
from tools.bench.process import StartFailed, raise_descriptor_limit

REFERENCES = ("nginx", "haproxy", "hitch")
SMOKE_SCALE = 0.1
SMOKE_PAIRS = 1
PLAIN_WIDTH = 200


def _interrupt(signum: int, _frame: object) -> None:
    raise SystemExit(128 + signum)


class Again(peers.Nginx):
    """nginx once more, for `--calibrate`: its ratio to nginx is the noise of the machine."""

    name = "nginx-again"

    def missing(self) -> str | None:
        """Return why it cannot be measured here, or None."""
        return peers.Nginx().missing()


def choose(names: list[str]) -> tuple[list[Peer], dict[str, str], Peer | None]:
    """Return the proxies to measure, why others are missing, and the one that they are compared with."""
    known = peers.all_peers()
    unknown = set(names) - {peer.name for peer in known}
    if unknown:
        raise click.UsageError(
            f"no proxy {sorted(unknown)[0]!r}; there are {', '.join(p.name for p in known)}"
        )
    missing = {peer.name: reason for peer in known if (reason := peer.missing())}
    present = {peer.name: peer for peer in known if peer.name not in missing}
    reference = next((present[name] for name in REFERENCES if name in present), None)
    wanted = [
        peer
        for name, peer in present.items()
        if (name in names if names else reference is None or name != reference.name)
    ]
    return wanted, missing, reference


def takes_part(axis: Axis, peer: Peer) -> bool:
    """Say whether an axis has something to measure on a proxy."""
    if axis.only_symphony:
        return isinstance(peer, Symphony)
    return peer.passes_through or not axis.passthrough


def run_axes(
    chosen: list[Axis], wanted: list[Peer], bench: Bench, progress: Progress, task: object
) -> list[Figure]:
    """Measure every proxy on every axis. A failure ends that proxy's axis, is reported there, and nothing else."""
    figures = []
    for axis in chosen:
        if axis.passthrough and not bench.backend.has_nginx:
            figures.append(axis.refusal(wanted[0], "needs nginx as a TLS backend"))
            continue
        for peer in wanted:
            if not takes_part(axis, peer):
                continue
            progress.update(task, description=f"{axis.key}: {peer.name}")  # type: ignore[arg-type]
            before = progress.tasks[0].completed
            try:
                figures += axis.run(bench, peer)
            except (RunError, StartFailed, PortTaken, ProcessGone, OSError, ValueError) as error:
                figures.append(axis.refusal(peer, f"{type(error).__name__}: {error}"))
            progress.update(task, completed=before + axis.steps(bench))  # type: ignore[arg-type]
    return figures


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", metavar="AXIS[,..]", help="Only these axes; `handshake` stands for `handshake-...`.")
@click.option("--peers", "peer_names", metavar="NAME[,..]", help="Only these proxies, besides the reference.")
@click.option("--pairs", type=click.IntRange(1, 99), default=5, show_default=True, help="Pairs per figure.")
@click.option(
    "--scale", type=click.FloatRange(0.01, 100), default=1.0, help="Multiplies the work in each pair."
)
@click.option("--smoke", is_flag=True, help="Two axes, one short pair: shows that the program works.")
@click.option("--calibrate", is_flag=True, help="Also compare nginx with itself: the noise of this machine.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there.")
@click.option(
    "--doc", "doc_file", type=click.Path(path_type=Path), help="Write the report there as Markdown."
)
@click.option("--install-peers", is_flag=True, help="First install missing proxies (apt-get as root, npm).")
@click.option("--list", "list_axes", is_flag=True, help="List the axes and stop.")
def main(
    only: str | None,
    peer_names: str | None,
    pairs: int,
    scale: float,
    smoke: bool,
    calibrate: bool,
    json_file: Path | None,
    doc_file: Path | None,
    install_peers: bool,
    list_axes: bool,
) -> None:
    """Measure Symphony beside other TLS proxies, two at a time on one core: CPU per operation as a ratio to nginx.

    $SYMPHONY_BENCH_COMMAND names another `symphony` command to measure, such as that of another checkout.

    Exits with 1 when a proxy failed on an axis (the report says which); missed targets do not count as failures.
    """
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    axes = catalogue.all_axes()
    if list_axes:
        for axis in axes:
            console.print(f"{axis.key:22}{axis.title}", highlight=False)
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
    wanted, missing, reference = choose(peer_names.split(",") if peer_names else [])
    if calibrate and not Again().missing():
        wanted.append(Again())
    if not wanted:
        raise click.ClickException(
            "nothing to measure: " + "; ".join(f"{k}: {v}" for k, v in missing.items())
        )
    signal.signal(signal.SIGTERM, _interrupt)
    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = str(ROOT)
    finished = _measure(chosen, wanted, reference, missing, pairs, scale, console)
    report.to_terminal(finished, console)
    if json_file:
        json_file.write_bytes(report.to_json(finished))
    if doc_file:
        doc_file.write_text(report.to_markdown(finished))
    if any(figure.failure for figure in finished.figures):
        raise SystemExit(1)


def _measure(
    chosen: list[Axis],
    wanted: list[Peer],
    reference: Peer | None,
    missing: dict[str, str],
    pairs: int,
    scale: float,
    console: Console,
) -> Report:
    """Start the backend, run the axes, stop everything."""
    where, warning = machine.divide(os.sched_getaffinity(0))
    warnings = [*([warning] if warning else []), *catalogue.LEFT_OUT]
    if reference is None:
        warnings.append("nothing to compare with: no nginx, HAProxy or hitch here, so there are no ratios")
    elif reference.name != REFERENCES[0]:
        warnings.append(f"nginx is missing, so ratios are to {reference.name} and the targets do not apply")
    versions = {peer.name: peer.version() for peer in [*wanted, *([reference] if reference else [])]}
    description = machine.describe()
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="sybench-", dir="/tmp"))
    backend = None
    try:
        ecdsa, rsa = certs.make(directory, SERVER_NAME, "ecdsa"), certs.make(directory, SERVER_NAME, "rsa")
        backend = Backend(directory, ecdsa, where.load)
        with Progress(
            TextColumn("{task.description:38}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        ) as progress:
            task = progress.add_task("starting")
            bench = Bench(
                directory, backend, where, reference, pairs, raise_descriptor_limit(), ecdsa, rsa,
                lambda: progress.advance(task), scale,
            )  # fmt: skip
            total = sum(axis.steps(bench) for axis in chosen for peer in wanted if takes_part(axis, peer))
            progress.update(task, total=total)
            figures = run_axes(chosen, wanted, bench, progress, task)
    except StartFailed as error:
        raise click.ClickException(str(error)) from error
    finally:
        if backend is not None:
            backend.stop()
        shutil.rmtree(directory, ignore_errors=True)
    return Report(
        started=started,
        seconds=time.monotonic() - clock,
        pairs=pairs,
        reference=reference.name if reference else "",
        machine=description,
        versions=versions,
        missing=missing,
        warnings=warnings,
        figures=figures,
    )


if __name__ == "__main__":
    main(prog_name="bench")
