"""Want: of CPU, of descriptors, of room on the disk. Nobody may die of it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

from symphony.observe.reasons import Reason
from tools.chaos.disk import DISK_BYTES, filled
from tools.chaos.house import House, NotAsExpected
from tools.chaos.kernel import no_more_descriptors, tenth_of_a_cpu
from tools.chaos.plan import ACCEPTOR, SUPERVISOR
from tools.chaos.records import Evidence, StepResult

CPU_FOR_S = 2.5
DESCRIPTORS_FOR_S = 2.0


def starve_cpu(pid: int) -> None:
    """Let a process run for a tenth of the time."""
    with tenth_of_a_cpu(pid):
        time.sleep(CPU_FOR_S)


def starve_descriptors(
    house: House, evidence: Evidence, victim: str, rng: random.Random, result: StepResult
) -> None:
    """Let a process open next to no descriptor more, and have it want some.

    An acceptor turns connections away for it and counts them: no more than these may fail.
    """
    spare = rng.randrange(4)
    acceptor = victim.startswith(ACCEPTOR)
    counted = _turned_away(house, victim) if acceptor else 0
    began = time.monotonic()
    with no_more_descriptors(house.pid_of(victim), spare):
        deadline = began + DESCRIPTORS_FOR_S
        while time.monotonic() < deadline:
            if not acceptor and victim != SUPERVISOR:
                _poke(house, victim)
            time.sleep(0.1)
    result.figures["spare descriptors"] = spare
    if acceptor:
        result.figures["turned away"] = _turned_away(house, victim) - counted


def _turned_away(house: House, victim: str) -> int:
    return house.describe_acceptor(victim).errors.get(Reason.DESCRIPTOR_LIMIT.value, 0)


def _poke(house: House, victim: str) -> None:
    """Have a process want a descriptor; whether it then answers does not matter yet."""
    try:
        house.reload() if victim == "route-registry" else house.ask_anything(victim)
    except NotAsExpected:
        pass


def fill_disk(house: House, kill: Callable[[str], None], result: StepResult) -> None:
    """Fill the runtime directory's disk: reloads and restarts must go on as well as they can, and recover after."""
    with filled(house.runtime_dir):
        result.figures["bytes of the disk"] = DISK_BYTES
        result.figures["bytes left on it"] = _free(house)
        try:
            house.reload()
        except NotAsExpected as error:
            result.problems.append(f"a reload on a full disk: {error}")
        kill("route-registry")
        kill(house.acceptors()[0])
    done = house.reload()
    house.wait(
        lambda: all(house.describe_acceptor(name).version == done.version for name in house.acceptors()),
        f"all acceptors serve version {done.version}",
        10.0,
    )


def _free(house: House) -> int:
    found = os.statvfs(house.runtime_dir)
    return found.f_bavail * found.f_frsize
