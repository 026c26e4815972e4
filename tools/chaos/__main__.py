"""``python -m tools.chaos``: see :mod:`tools.chaos`."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from tools.bench.process import raise_descriptor_limit
from tools.chaos.finale import kill_supervisor
from tools.chaos.harms import Scene, do_harm
from tools.chaos.house import House, NotAsExpected
from tools.chaos.leaks import compare_supervisor, look_for_leaks, supervisor_descriptors
from tools.chaos.plan import HARMS, Step, make_plan
from tools.chaos.records import Evidence
from tools.chaos.report import print_rows
from tools.chaos.traffic import Traffic
from tools.chaos.verdict import judge

QUIET_S = 1.0
BETWEEN_S = 0.4


def main() -> int:
    """Do harm for a while; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.chaos", description="Harm done to a real tree under traffic."
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="how long harm is done (default: 3)")
    parser.add_argument(
        "--seed", type=int, default=None, help="what gives the order; the same again for the same seed"
    )
    parser.add_argument("--steps", type=int, default=None, help="so many steps instead of --minutes")
    parser.add_argument(
        "--connections", type=int, default=10_000, help="connections that end in every way (default: 10000)"
    )
    parser.add_argument("--only", default="", help=f"harms to do, with commas between: {', '.join(HARMS)}")
    parser.add_argument("--workers", type=int, default=max(2, len(os.sched_getaffinity(0))), help="acceptors")
    parser.add_argument("--untimed", action="store_true", help="show times, and judge none of them")
    parser.add_argument("--log", type=Path, default=None, help="where to leave the tree's log")
    parser.add_argument(
        "--list", action="store_true", help="print the steps of the first round, and do nothing"
    )
    chosen = parser.parse_args()
    harms = tuple(chosen.only.split(",")) if chosen.only else tuple(HARMS)
    if unknown := [name for name in harms if name not in HARMS]:
        parser.error(f"no such harm: {', '.join(unknown)}")
    seed = random.SystemRandom().randrange(1 << 32) if chosen.seed is None else chosen.seed
    if chosen.list:
        plan = make_plan(seed, chosen.workers, harms)
        for number in range(sum(len(HARMS[name]) for name in harms)):
            print(number + 1, *next(plan)[:2])
        return 0
    console = Console(highlight=False, soft_wrap=False)
    console.print(
        f"seed {seed}, {chosen.workers} acceptors (again: --seed {seed} --workers {chosen.workers})"
    )
    raise_descriptor_limit()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left behind
    evidence = Evidence()
    with House(chosen.workers) as house:
        console.print(f"symphony run is process {house.pid}, in {house.directory}", soft_wrap=True)
        scene = Scene(house, Traffic(house.site, evidence), evidence)
        try:
            plan = make_plan(seed, chosen.workers, harms)
            _harm(scene, plan, chosen.minutes * 60, chosen.steps, console)
            if chosen.connections:
                console.print(f"           {chosen.connections} connections, ended in every way")
                evidence.steps.append(look_for_leaks(house, chosen.connections, seed))
        except NotAsExpected as error:
            evidence.tracebacks += [f"broken off: {error}", *house.warnings()[-8:]]
        if not house.has_ended and (code := house.stop()):
            evidence.tracebacks.append(f"the stop at the end: exit code {code}")
        evidence.tracebacks += house.tracebacks()
        if chosen.log is not None:
            chosen.log.write_text(house.log_text())
    late = f"this program itself ran up to {scene.traffic.late_s * 1000:.0f} ms later than it meant to"
    console.print(f"\n{late}\n")
    kept = print_rows(judge(evidence, timed=not chosen.untimed), console)
    console.print(f"\nseed {seed}: {'every promise kept' if kept else 'NOT every promise kept'}")
    return 0 if kept else 1


def _harm(scene: Scene, plan: Iterator[Step], seconds: float, steps: int | None, console: Console) -> None:
    """Do harm under traffic, and at last kill the supervisor."""
    house, traffic, evidence = scene.house, scene.traffic, scene.evidence
    traffic.start()
    try:
        time.sleep(QUIET_S)
        before = supervisor_descriptors(house)
        began = time.monotonic()
        for number, step in enumerate(plan):
            at = time.monotonic() - began
            if number == steps or (steps is None and at >= seconds):
                break
            console.print(f"{at:7.1f} s  {number + 1:3d}  {step.harm} {step.victim}")
            evidence.steps.append(result := do_harm(scene, step))
            for problem in result.problems:
                console.print(f"                {problem}", style="red", markup=False, soft_wrap=True)
            time.sleep(BETWEEN_S)
        evidence.steps.append(compare_supervisor(before, supervisor_descriptors(house)))
        console.print(f"{time.monotonic() - began:7.1f} s       kill supervisor")
        evidence.steps.append(kill_supervisor(scene))
        traffic.resume_calls()
        time.sleep(QUIET_S)
    finally:
        traffic.stop()
        evidence.tracebacks += traffic.faults


if __name__ == "__main__":
    sys.exit(main())
