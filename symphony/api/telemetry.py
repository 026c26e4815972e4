"""Asks a running instance for everything that can be counted, and puts the answers together.

All actors are asked at the same time and get a second each; one that does not answer is named, and what the others
said is there: this is looked at most when something is wrong.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psutil
from msgspec import Struct

from supervisor.messages import ChildDescription, DescribeTree, TreeDescription, TreeReply
from symphony.api.names import REGISTRY, SUPERVISOR
from symphony.api.status import acceptors_in, ask_briefly
from symphony.messages.acceptor import AcceptorReply
from symphony.messages.registry import ConfigDescription, DescribeConfig, RegistryReply
from symphony.messages.totals import AcceptorTotals, DescribeTotals, PageTotals
from symphony.observe.telemetry import ActorTelemetry, Telemetry, add_pages, at_rest
from symphony.version import __version__


class TelemetrySource:
    """The instance in `runtime_dir`, asked again and again.

    What an acceptor told last is remembered while it is away, so that no total goes back between two answers.
    """

    def __init__(self, runtime_dir: str) -> None:
        self._runtime_dir = runtime_dir
        self._pages: dict[str, PageTotals] = {}

    async def gather(self) -> Telemetry:
        """Ask once. Takes a second or so at most, and raises nothing for an instance that is silent."""
        return await _gather(self._runtime_dir, self._pages)


async def _gather(runtime_dir: str, remembered: dict[str, PageTotals]) -> Telemetry:
    acceptors = acceptors_in(runtime_dir)
    tree, config, *answers = await asyncio.gather(
        ask_briefly(runtime_dir, SUPERVISOR, DescribeTree(), TreeReply),
        ask_briefly(runtime_dir, REGISTRY, DescribeConfig(), RegistryReply),
        *(ask_briefly(runtime_dir, name, DescribeTotals(), AcceptorReply) for name in acceptors),
    )
    told: list[AcceptorTotals] = [answer for answer in answers if isinstance(answer, AcceptorTotals)]
    silent = [
        name
        for name, answer in zip((SUPERVISOR, REGISTRY, *acceptors), (tree, config, *answers), strict=True)
        if not isinstance(answer, Struct)
    ]
    pages = {page.name: page for answer in told for page in answer.pages}
    for name, page in remembered.items():
        if name not in pages:
            pages[name] = at_rest(page)
    remembered.update(pages)
    known = isinstance(config, ConfigDescription)
    now = time.time()
    return Telemetry(
        at=now,
        version=__version__,
        pid=tree.pid if isinstance(tree, TreeDescription) else 0,
        uptime_s=max(0.0, now - tree.started_at) if isinstance(tree, TreeDescription) else 0.0,
        config_file=config.file if known else "",
        config_version=config.version if known else max((answer.version for answer in told), default=0),
        routes=config.routes if known else 0,
        problems=len(config.problems) if known else 0,
        applied={
            name: answer.version
            for name, answer in zip(acceptors, answers, strict=True)
            if isinstance(answer, AcceptorTotals)
        },
        actors=tuple(_actors(tree)),
        totals=add_pages(pages.values()),
        held=sum(answer.held for answer in told),
        silent=tuple(silent),
    )


def _actors(tree: Any) -> list[ActorTelemetry]:
    if not isinstance(tree, TreeDescription):
        return []
    supervisor = ChildDescription(
        SUPERVISOR, SUPERVISOR, "", tree.pid, "running", 0, max(0.0, time.time() - tree.started_at), 0, ""
    )
    return [_actor(child) for child in (supervisor, *tree.children)]


def _actor(child: ChildDescription) -> ActorTelemetry:
    cpu_s, rss_bytes = _use_of(child.pid) if child.pid else (0.0, 0)
    return ActorTelemetry(
        name=child.name,
        kind=child.kind,
        group=child.group,
        pid=child.pid,
        state=str(child.state),
        restarts=child.restarts,
        uptime_s=child.uptime_s,
        depth=child.depth,
        last_exit=child.last_exit,
        cpu_s=cpu_s,
        rss_bytes=rss_bytes,
    )


def _use_of(pid: int) -> tuple[float, int]:
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return times.user + times.system, process.memory_info().rss
    except psutil.Error:
        return 0.0, 0
