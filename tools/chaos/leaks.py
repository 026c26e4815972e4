"""Whether anything is left of connections that are over: descriptors, memory, places in the books."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

import uvloop

from tools.chaos.endings import ENDINGS, end_connections
from tools.chaos.house import House, NotAsExpected
from tools.chaos.kernel import descriptors, private_kib
from tools.chaos.plan import SUPERVISOR
from tools.chaos.records import StepResult

AT_ONCE = 64
LIMIT_S = 20.0
WARM_UP_SHARE = 0.2
GROWTH_KIB = 2048
POOLED_PIPES = 128
"""Descriptors that an acceptor may keep for later use: the ends of 64 pipes."""
OVER_WITHIN_S = 15.0


class Held(NamedTuple):
    """What one process holds: sockets, other descriptors, private memory."""

    sockets: int
    others: int
    kib: int


def look_for_leaks(house: House, connections: int, seed: int) -> StepResult:
    """End so many connections in every way, and compare what every process held before with what it holds after.

    The first fifth is not counted: buffers and pools are then as large as they get. Nothing else may use the tree.
    """
    result = StepResult("leaks", "", time.monotonic())
    try:
        _wait_idle(house)
        accepted = _accepted(house)
        warm_up = max(len(ENDINGS), int(connections * WARM_UP_SHARE))
        uvloop.run(end_connections(house.site, warm_up, seed, AT_ONCE, LIMIT_S))
        _wait_idle(house)
        before = _look(house)
        uvloop.run(end_connections(house.site, connections - warm_up, seed + 1, AT_ONCE, LIMIT_S))
        _wait_idle(house)
        after = _settle(house, before)
        if (counted := _accepted(house) - accepted) != connections:
            result.problems.append(f"{connections} connections were made, and {counted} counted")
        _compare(before, after, result)
    except (NotAsExpected, TimeoutError, ValueError) as error:
        result.problems.append(str(error))
    result.figures["connections"] = connections
    result.figures["ways to end"] = len(ENDINGS)
    result.ended = time.monotonic()
    return result


def compare_supervisor(before: int, after: int) -> StepResult:
    """Judge the supervisor's descriptors before and after all the deaths that it has seen to."""
    now = time.monotonic()
    result = StepResult("leaks", SUPERVISOR, now, now, figures={"supervisor's descriptors": after})
    if after > before:
        result.problems.append(f"the supervisor has {after} descriptors, {before} before all the deaths")
    return result


def _compare(before: dict[str, Held], after: dict[str, Held], result: StepResult) -> None:
    for name, held in after.items():
        was = before[name]
        if held.sockets > was.sockets:
            result.problems.append(f"{name} has {held.sockets} sockets, {was.sockets} before")
        if held.others > was.others + POOLED_PIPES:
            result.problems.append(f"{name} has {held.others} other descriptors, {was.others} before")
        if held.kib - was.kib > GROWTH_KIB:
            result.problems.append(f"{name} has {held.kib} KiB, {was.kib} before")
    result.figures["sockets left over"] = max(
        held.sockets - before[name].sockets for name, held in after.items()
    )
    result.figures["KiB grown at most"] = max(held.kib - before[name].kib for name, held in after.items())


def _wait_idle(house: House) -> None:
    house.wait(
        lambda: not any(house.describe_acceptor(name).active for name in house.acceptors()),
        "every connection is over",
        OVER_WITHIN_S,
    )


def _accepted(house: House) -> int:
    return sum(house.describe_acceptor(name).accepted for name in house.acceptors())


def _settle(house: House, before: dict[str, Held]) -> dict[str, Held]:
    """Look again and again until no process has more sockets than before, or the time is up."""
    deadline = time.monotonic() + OVER_WITHIN_S
    while True:
        after = _look(house)
        if time.monotonic() > deadline or all(
            after[name].sockets <= held.sockets for name, held in before.items()
        ):
            return after
        time.sleep(0.05)


def _look(house: House) -> dict[str, Held]:
    pids = {SUPERVISOR: house.pid, **{name: child.pid for name, child in house.children().items()}}
    return {name: Held(*descriptors(pid), private_kib(pid)) for name, pid in pids.items()}


def supervisor_descriptors(house: House) -> int:
    """How many descriptors the supervisor has open, while nobody asks it anything."""
    return len(os.listdir(f"/proc/{house.pid}/fd"))
