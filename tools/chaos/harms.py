"""The harm itself: one function per kind, from a step of the plan to what came of it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from supervisor.messages import ChildDescription
from tools.chaos.flood import flood
from tools.chaos.house import RUNNING, House, NotAsExpected
from tools.chaos.kernel import ProcessGone
from tools.chaos.plan import ACCEPTOR, EVERYBODY_AT_ONCE, SUPERVISOR, Step
from tools.chaos.records import Death, Evidence, StepResult
from tools.chaos.starve import fill_disk, starve_cpu, starve_descriptors
from tools.chaos.traffic import LIMIT_S, Traffic

BURST = 40
BACKLOG_FILLS_S = 0.6
CRASHES_FOR_S = 6.0
PAUSED_FOR_S = 3.0
JUST_BEGUN_S = 1.0
LINES_SHOWN = 6
BACK_WITHIN_S = 15.0
"""How long anything may take to be back before it counts as not coming back."""


@dataclass
class Scene:
    """What every harm has to do with."""

    house: House
    traffic: Traffic
    evidence: Evidence


def do_harm(scene: Scene, step: Step) -> StepResult:
    """Carry a step out, and wait until the tree is whole again."""
    result = StepResult(step.harm, step.victim, time.monotonic())
    before = {name: child.restarts for name, child in scene.house.children().items()}
    died = len(scene.evidence.deaths)
    try:
        step = step._replace(victim=scene.house.called(step.victim))
        _HARMS[step.harm](scene, step, result)
        scene.house.wait_whole()
        if step.harm == "upgrade":
            before = {}  # all of them are new
        _check_restarts(scene, before, died, result)
    except NotAsExpected as error:
        result.problems.append(str(error))
    except ProcessGone as error:
        result.problems.append(f"{error} was gone before harm was done to it")
    if scene.house.has_ended:
        result.problems.append("the supervisor has ended")
    result.ended = time.monotonic()
    if result.problems:
        result.problems += [f"logged: {line}" for line in scene.house.warnings()[-LINES_SHOWN:]]
    return result


def _check_restarts(scene: Scene, before: dict[str, int], died: int, result: StepResult) -> None:
    """Who was not killed must still be the process that it was."""
    killed = [death.name for death in scene.evidence.deaths[died:]]
    for name, child in scene.house.children().items():
        restarts = child.restarts - before.get(name, 0)
        if restarts != killed.count(name):
            result.problems.append(
                f"{name} was restarted {restarts} times, but killed {killed.count(name)} times ({child.last_exit})"
            )


def _kill_frozen(scene: Scene, death: Death, pid: int) -> Death:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        raise ProcessGone(f"{death.name} ({pid})") from None
    death = replace(death, killed_at=time.monotonic())
    scene.evidence.deaths.append(death)
    return death


def _wait_successor(scene: Scene, former: ChildDescription, within_s: float = BACK_WITHIN_S) -> float:
    """Wait until another process runs in the place of `former`; return the time at which it was seen."""
    house = scene.house

    def is_back() -> bool:
        child = house.child(former.name)
        return child.state == RUNNING and child.pid != former.pid

    house.wait(is_back, f"{former.name} is back", within_s)
    return time.monotonic()


def _kill(scene: Scene, step: Step, result: StepResult) -> None:
    child = scene.house.wait_running(step.victim)
    death = _kill_frozen(scene, scene.house.freeze(step.victim, child.pid), child.pid)
    result.figures["held connections"] = len(death.clients)
    result.figures["back after, s"] = _wait_successor(scene, child) - death.killed_at


def _kill_all(scene: Scene, step: Step, result: StepResult) -> None:
    """Kill every child at once, or every acceptor: nobody is left to take over, and still nobody is refused."""
    house = scene.house
    children = [
        child
        for child in house.children().values()
        if step.victim == EVERYBODY_AT_ONCE or child.kind == ACCEPTOR
    ]
    frozen = [(house.freeze(child.name, house.wait_running(child.name).pid), child) for child in children]
    deaths = [_kill_frozen(scene, death, child.pid) for death, child in frozen]
    result.figures["killed at once"] = len(deaths)
    result.figures["held connections"] = sum(len(death.clients) for death in deaths)
    back_at = max(_wait_successor(scene, child) for child in children)
    result.figures["back after, s"] = back_at - deaths[0].killed_at


def _kill_in_reload(scene: Scene, step: Step, result: StepResult) -> None:
    """Kill somebody while a reload is under way: then or later, every acceptor serves the new configuration."""
    house = scene.house
    child = house.wait_running(step.victim)
    wanted = house.write_extra_route()
    os.kill(house.pid, signal.SIGHUP)
    time.sleep(random.Random(step.seed).uniform(0.0, 0.03))  # noqa: S311
    _kill_frozen(scene, house.freeze(step.victim, child.pid), child.pid)
    _wait_successor(scene, child)
    # The supervisor's reload may have died with the registry, whose successor reads the file anyway.
    house.wait(
        lambda: house.served_routes() == {wanted}, f"every acceptor serves {wanted} routes", BACK_WITHIN_S
    )


def _kill_with_backlog(scene: Scene, step: Step, result: StepResult) -> None:
    """Let connections queue up at an acceptor that does nothing more, then kill it."""
    child = scene.house.wait_running(step.victim)
    death = scene.house.freeze(step.victim, child.pid)
    calls = scene.traffic.burst(BURST)
    time.sleep(BACKLOG_FILLS_S)
    waiting = [
        call for call in tuple(scene.evidence.calls) if not call.is_over and call.address not in death.clients
    ]
    death = _kill_frozen(scene, death, child.pid)
    scene.house.wait(
        lambda: all(call.is_over for call in calls), "every call of the burst is over", 2 * LIMIT_S
    )
    scene.house.wait(lambda: all(call.is_over for call in waiting), "every waiting call is over", 2 * LIMIT_S)
    served = [call for call in waiting if not call.error]
    result.figures["waited in the queue"] = len(waiting)
    result.figures["of these served"] = len(served)
    result.figures["slowest served after, s"] = max(
        (call.ended - death.killed_at for call in served), default=0.0
    )
    _wait_successor(scene, child)
    if len(served) < len(waiting):
        errors = {call.error for call in waiting if call.error}
        result.problems.append(f"{len(waiting) - len(served)} calls in the queue were not served: {errors}")


def _hang(scene: Scene, step: Step, result: StepResult) -> None:
    child = scene.house.wait_running(step.victim)
    death = scene.house.freeze(step.victim, child.pid)
    found_at = _wait_successor(scene, child)
    scene.evidence.deaths.append(replace(death, killed_at=found_at))
    result.figures["replaced after, s"] = found_at - death.frozen_at


def _end_talks(scene: Scene) -> None:
    """End all talks in order, and those that were just begun with somebody who is to go now."""
    scene.traffic.end_talks()
    time.sleep(JUST_BEGUN_S)
    scene.traffic.end_talks()


def _replace_acceptors(scene: Scene, step: Step, result: StepResult) -> None:
    """Have others take the place of all acceptors; what is open ends in order, and they with it."""
    for _ in range(2):
        scene.house.replace_acceptors()
        _end_talks(scene)
        scene.house.wait_whole()


def _upgrade(scene: Scene, step: Step, result: StepResult) -> None:
    """Have another supervisor with other children take the place of all."""
    scene.house.upgrade(lambda: _end_talks(scene))


def _pause(scene: Scene, step: Step, result: StepResult) -> None:
    """Have the supervisor sleep: nobody else may notice."""
    os.kill(scene.house.pid, signal.SIGSTOP)
    time.sleep(PAUSED_FOR_S)
    os.kill(scene.house.pid, signal.SIGCONT)
    time.sleep(0.5)  # what it makes of the time it missed, it makes at once


def _crash_loop(scene: Scene, step: Step, result: StepResult) -> None:
    """Kill an acceptor again as soon as it is there."""
    until = result.began + CRASHES_FOR_S
    crashes = 0
    last = 0
    while time.monotonic() < until:
        child = scene.house.child(step.victim)
        if child.pid in (0, last):
            time.sleep(0.002)
            continue
        last = child.pid
        _kill_frozen(scene, scene.house.freeze(step.victim, last), last)
        crashes += 1
    result.figures["crashes"] = crashes
    result.figures["until, s"] = time.monotonic()
    scene.house.wait_running(step.victim)


def _starve_cpu(scene: Scene, step: Step, result: StepResult) -> None:
    starve_cpu(scene.house.pid_of(step.victim))


def _starve_descriptors(scene: Scene, step: Step, result: StepResult) -> None:
    starve_descriptors(scene.house, scene.evidence, step.victim, random.Random(step.seed), result)  # noqa: S311


def _fill_disk(scene: Scene, step: Step, result: StepResult) -> None:
    if scene.house.disk_missing:
        result.skipped = scene.house.disk_missing
        return

    def kill(name: str) -> None:
        child = scene.house.wait_running(name)
        _kill_frozen(scene, scene.house.freeze(name, child.pid), child.pid)
        _wait_successor(scene, child)

    fill_disk(scene.house, kill, result)


def _flood(scene: Scene, step: Step, result: StepResult) -> None:
    flood(scene.house, step.harm.removeprefix("flood-"), step.victim, random.Random(step.seed), result)  # noqa: S311


_HARMS: dict[str, Callable[[Scene, Step, StepResult], None]] = {
    "kill": _kill,
    "kill-all": _kill_all,
    "kill-in-reload": _kill_in_reload,
    "kill-with-backlog": _kill_with_backlog,
    "replace-acceptors": _replace_acceptors,
    "upgrade": _upgrade,
    "hang": _hang,
    "pause": _pause,
    "crash-loop": _crash_loop,
    "starve-cpu": _starve_cpu,
    "starve-descriptors": _starve_descriptors,
    "fill-disk": _fill_disk,
    "flood-garbage": _flood,
    "flood-oversize": _flood,
    "flood-version": _flood,
    "flood-valid": _flood,
}

__all__ = ["SUPERVISOR", "Scene", "do_harm"]
