"""The comparison as a whole: which proxies and axes, run one by one, and the report of it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tools.bench import machine, peers
from tools.bench.axes import Axis, Bench
from tools.bench.cpu import ProcessGone
from tools.bench.outcome import Figure, Report
from tools.bench.pair import RunError
from tools.bench.peers import Peer, Symphony
from tools.bench.ports import PortTaken
from tools.bench.process import StartFailed, raise_descriptor_limit
from tools.bench.workspace import workspace

REFERENCES = ("nginx", "haproxy", "hitch")


class Again(peers.Nginx):
    """nginx once more, for `--calibrate`: its ratio to nginx is the noise of the machine."""

    name = "nginx-again"

    def missing(self) -> str | None:
        """Return why it cannot be measured here, or None."""
        return peers.Nginx().missing()


class Before(Symphony):
    """Another Symphony, such as one of before a change: what the change costs is the ratio to it."""

    name = "before"

    def __init__(self, command: str) -> None:
        """`command` is that Symphony's `symphony`."""
        super().__init__()
        self._command = command


@dataclass(frozen=True)
class Field:
    """The proxies: those to measure, why others are missing, and the one that they are compared with."""

    wanted: list[Peer]
    missing: dict[str, str]
    reference: Peer | None


def choose(names: list[str]) -> Field:
    """Return the named proxies, all when none is named. Raises click.UsageError for an unknown name."""
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
    return Field(wanted, missing, reference)


def takes_part(axis: Axis, peer: Peer) -> bool:
    """Say whether an axis has something to measure on a proxy."""
    if axis.only_symphony:
        return isinstance(peer, Symphony)
    return peer.passes_through or not axis.passthrough


def run_axes(
    chosen: list[Axis], wanted: list[Peer], bench: Bench, progress: Progress, task: TaskID
) -> list[Figure]:
    """Measure every proxy on every axis. A failure ends that proxy's axis, is reported there, and nothing else."""
    figures = []
    for axis in chosen:
        if axis.needs_nginx and not bench.backend.has_nginx:
            figures.append(axis.refusal(wanted[0], "needs nginx as a backend"))
            continue
        for peer in wanted:
            if not takes_part(axis, peer):
                continue
            progress.update(task, description=f"{axis.key}: {peer.name}")
            before = progress.tasks[0].completed
            try:
                figures += axis.run(bench, peer)
            except (RunError, StartFailed, PortTaken, ProcessGone, OSError, ValueError) as error:
                figures.append(axis.refusal(peer, f"{type(error).__name__}: {error}"))
            progress.update(task, completed=before + axis.steps(bench))
    return figures


def progress_bar(console: Console) -> Progress:
    """Return the display of how far a run has come."""
    columns = (TextColumn("{task.description:38}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def measure(chosen: list[Axis], field: Field, pairs: int, scale: float, console: Console) -> Report:
    """Start the backend, run the axes, stop everything. Raises StartFailed when there is no backend."""
    where, warning = machine.divide(os.sched_getaffinity(0))
    reference = field.reference
    warnings = [warning] if warning else []
    if reference is None:
        warnings.append("nothing to compare with: no nginx, HAProxy or hitch here, so there are no ratios")
    elif isinstance(reference, Before):
        warnings.append(f"ratios are to {reference.executable}")
    elif reference.name != REFERENCES[0]:
        warnings.append(f"nginx is missing, so ratios are to {reference.name} and the targets do not apply")
    versions = {peer.name: peer.version() for peer in [*field.wanted, *([reference] if reference else [])]}
    description = machine.describe()
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    with (
        workspace(where.load) as space,
        progress_bar(console) as progress,
    ):
        task = progress.add_task("starting")
        bench = Bench(
            space, where, reference, pairs, raise_descriptor_limit(), lambda: progress.advance(task), scale
        )
        steps = [axis.steps(bench) for axis in chosen for peer in field.wanted if takes_part(axis, peer)]
        progress.update(task, total=sum(steps))
        figures = run_axes(chosen, field.wanted, bench, progress, task)
    if isinstance(reference, Before):
        for figure in figures:
            figure.target = None
    return Report(
        started=started,
        seconds=time.monotonic() - clock,
        pairs=pairs,
        reference=reference.name if reference else "",
        machine=description,
        versions=versions,
        missing=field.missing,
        warnings=warnings,
        figures=figures,
    )
