"""The supervisor is killed: what its children then do, and whether another instance can begin at once."""

from __future__ import annotations

import os
import signal
import time

from tools.chaos.harms import Scene
from tools.chaos.house import DRAIN_S, NotAsExpected
from tools.chaos.records import StepResult, Talk

GONE_WITHIN_S = 3.0
"""How long after the drain the last child may take to be gone."""
TALKS_ON_FOR_S = 1.5
CUT_BEFORE_END_S = 0.5
"""So long before the end of the drain, at most, an acceptor ends the connections that are left."""


def kill_supervisor(scene: Scene) -> StepResult:
    """Kill it while connections are open, start another instance on the same ports, and see the orphans off."""
    house, traffic, evidence = scene.house, scene.traffic, scene.evidence
    result = StepResult("kill", "supervisor", time.monotonic())
    house.wait_whole()
    traffic.hold_calls()
    open_talks = [talk for talk in tuple(evidence.talks) if not talk.ended and talk.kind == "echo"]
    result.figures["open connections"] = len(open_talks)
    answers = {id(talk): talk.answers for talk in open_talks}
    os.kill(house.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    house.wait_ended()
    orphans = house.left_of_family()
    try:
        house.start()
        ready_at = time.monotonic()
    except NotAsExpected as error:
        result.problems.append(str(error))
        result.ended = time.monotonic()
        return result
    evidence.closed.append((killed_at, ready_at))
    result.figures["successor ready after, s"] = ready_at - killed_at
    # On a busy machine the successor may be ready when the drain is over.
    cut_at = killed_at + DRAIN_S - CUT_BEFORE_END_S
    evidence.drained.append((killed_at, cut_at))
    time.sleep(max(0.0, min(TALKS_ON_FOR_S, cut_at - time.monotonic())))
    # Some end in order in this time, as they do at any time.
    lost = [
        talk
        for talk in open_talks
        if (talk.error and talk.ended < cut_at)
        or ((talk.error or not talk.ended) and talk.answers == answers[id(talk)])
    ]
    result.figures["of these talked on"] = len(open_talks) - len(lost)
    if lost:
        result.problems.append(f"{len(lost)} open connections fell silent: {_errors(lost)}")
    traffic.end_talks()
    _see_off(scene, orphans, killed_at, result)
    result.ended = time.monotonic()
    return result


def _see_off(scene: Scene, orphans: list[int], killed_at: float, result: StepResult) -> None:
    """The orphans' connections are over: they have to be gone soon, and in any case when the drain is."""

    def gone() -> bool:
        return not set(orphans) & set(scene.house.left_of_family())

    deadline = killed_at + DRAIN_S + GONE_WITHIN_S
    while not gone() and time.monotonic() < deadline:
        time.sleep(0.01)
    result.figures["orphans"] = len(orphans)
    result.figures["last orphan gone after, s"] = time.monotonic() - killed_at
    if not gone():
        result.problems.append(f"orphans still there: {set(orphans) & set(scene.house.left_of_family())}")


def _errors(talks: list[Talk]) -> set[str]:
    return {talk.error for talk in talks if talk.error}
