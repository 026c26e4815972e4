"""The chaos tool's verdict: a good run keeps every promise, and every way to break one is seen."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tools.chaos.records import Call, Death, Evidence, StepResult, Talk
from tools.chaos.verdict import judge, percentile

HELD = ("127.0.0.1", 1000)
OTHER = ("127.0.0.1", 2000)
LOST = "lost: ConnectionResetError(104, 'Connection reset by peer')"


def good() -> Evidence:
    """A run in which everything happened, and every promise was kept. The one death is at 100."""
    died = Death("acceptor-0", 100.0, 100.1, frozenset({HELD, ("127.0.0.1", 1001)}))

    def step(harm: str, victim: str, **figures: float) -> StepResult:
        shown = {name.replace("_", " "): value for name, value in figures.items()}
        return StepResult(harm, victim, 100.0, 101.0, figures=shown)

    replaced = step("hang", "rate-limiter")
    replaced.figures["replaced after, s"] = 2.4
    killed = step("kill", "acceptor-0")
    killed.figures["back after, s"] = 0.2
    queue = step("kill-with-backlog", "acceptor-0", waited_in_the_queue=20, of_these_served=20)
    last = step("kill", "supervisor", open_connections=12, of_these_talked_on=12, orphans=5)
    last.figures["successor ready after, s"] = 1.0
    calls = [Call("plain", 90.0 + at, OTHER, 90.01 + at, 90.02 + at) for at in range(20)]
    calls.append(Call("plain", 99.9, HELD, 0.0, 100.2, LOST))
    talks = [
        Talk("echo", "plain", 50.0, OTHER, 100, 119.0, 0, 120.0),
        Talk("echo", "plain", 50.0, ("127.0.0.1", 1001), 100, 99.9, 0, 100.1, LOST),
        Talk("bulk", "plain", 50.0, OTHER, 0, 0.0, 1 << 20, 120.0),
    ]
    steps = [killed, replaced, queue, step("crash-loop", "acceptor-0", crashes=9), last]
    steps += [
        step(harm, "supervisor")
        for harm in (
            "pause",
            "upgrade",
            "starve-cpu",
            "starve-descriptors",
            "fill-disk",
            "flood-valid",
            "leaks",
        )
    ]
    return Evidence(calls, talks, [died], steps)


def broken(evidence: Evidence, *, timed: bool = True) -> list[str]:
    return [row.promise for row in judge(evidence, timed=timed) if row.kept is False]


def test_a_good_run() -> None:
    rows = judge(good())
    assert [row.promise for row in rows if row.kept is not True] == []
    assert all(row.figures and not row.problems for row in rows)


def test_a_run_in_which_nothing_happened_keeps_nothing() -> None:
    kept = [row.promise for row in judge(Evidence()) if row.kept is not None]
    assert kept == ["No process of the tree raises what it does not handle"]


def refused(evidence: Evidence) -> None:
    evidence.calls.append(Call("plain", 95.0, None, 0.0, 95.0, "refused"))


def failed_elsewhere(evidence: Evidence) -> None:
    evidence.calls.append(Call("plain", 99.9, OTHER, 0.0, 100.2, LOST))


def failed_before_the_death(evidence: Evidence) -> None:
    evidence.calls.append(Call("plain", 98.0, HELD, 0.0, 98.1, LOST))


def failed_after_the_death(evidence: Evidence) -> None:
    evidence.calls.append(Call("plain", 100.5, HELD, 0.0, 100.6, LOST))


def never_ended(evidence: Evidence) -> None:
    evidence.calls.append(Call("plain", 95.0, OTHER))


def timed_out(evidence: Evidence) -> None:
    evidence.calls.append(Call("plain", 95.0, OTHER, 0.0, 107.0, "timeout"))


def answered_wrongly(evidence: Evidence) -> None:
    evidence.talks[0].error = "wrong: another answer"


def talk_lost_elsewhere(evidence: Evidence) -> None:
    evidence.talks[0].error = LOST


def talk_survived_its_holder(evidence: Evidence) -> None:
    evidence.talks[1].error = ""
    evidence.talks[1].ended = evidence.talks[1].answered_at = 110.0


def bulk_lost(evidence: Evidence) -> None:
    evidence.talks[2].error = LOST


def step_failed(harm: str, victim: str = "") -> Callable[[Evidence], None]:
    def spoil(evidence: Evidence) -> None:
        steps = [step for step in evidence.steps if step.harm == harm and victim in ("", step.victim)]
        steps[0].problems.append("something")

    return spoil


def figure(harm: str, name: str, value: float, victim: str = "") -> Callable[[Evidence], None]:
    def spoil(evidence: Evidence) -> None:
        steps = [step for step in evidence.steps if step.harm == harm and victim in ("", step.victim)]
        steps[0].figures[name] = value

    return spoil


def slow_connections(evidence: Evidence) -> None:
    evidence.calls += [Call("plain", 100.5, OTHER, 100.95, 101.0) for _ in range(10)]


def traceback(evidence: Evidence) -> None:
    evidence.tracebacks.append("Traceback (most recent call last):")


CALLS = "Calls fail only with the acceptor that held them"
TALKS = "Open connections of other processes are untouched"
BACK = "Killed actors are back"
HUNG = "Hung actors are missed and replaced"
CRASHES = "An acceptor in a crash loop costs nobody else"
LAST = "A killed supervisor's children drain and leave, and a new one begins at once"


@pytest.mark.parametrize(
    ("spoil", "promises"),
    [
        (refused, ["New connections are never refused"]),
        (failed_elsewhere, [CALLS]),
        (failed_before_the_death, [CALLS]),
        (failed_after_the_death, [CALLS]),
        (never_ended, [CALLS]),
        (timed_out, [CALLS]),
        (answered_wrongly, [TALKS, "Every answer is the right one"]),
        (talk_lost_elsewhere, [TALKS]),
        (talk_survived_its_holder, [TALKS]),
        (bulk_lost, [TALKS]),
        (step_failed("kill", "acceptor-0"), [BACK]),
        (step_failed("hang"), [HUNG]),
        (step_failed("kill-with-backlog"), ["What waits for a killed acceptor is served by others"]),
        (step_failed("crash-loop"), [CRASHES]),
        (step_failed("pause"), ["A supervisor that sleeps is missed by nobody"]),
        (step_failed("starve-cpu"), ["A process that is short of CPU is not taken for hung"]),
        (step_failed("starve-descriptors"), ["Nobody dies for want of descriptors"]),
        (step_failed("fill-disk"), ["A full disk stops no traffic, and is recovered from"]),
        (step_failed("flood-valid"), ["Floods of mailboxes cut off the sender alone"]),
        (step_failed("leaks"), ["Nothing is left of connections and processes that are over"]),
        (step_failed("kill", "supervisor"), [LAST]),
        (traceback, ["No process of the tree raises what it does not handle"]),
    ],
)
@pytest.mark.parametrize("timed", [True, False])
def test_every_broken_promise_is_seen(
    spoil: Callable[[Evidence], None], promises: list[str], timed: bool
) -> None:
    evidence = good()
    spoil(evidence)
    assert broken(evidence, timed=timed) == promises


@pytest.mark.parametrize(
    ("spoil", "promise"),
    [
        (figure("kill", "back after, s", 1.5, "acceptor-0"), BACK),
        (figure("hang", "replaced after, s", 6.0), HUNG),
        (figure("kill", "successor ready after, s", 9.0, "supervisor"), LAST),
        (slow_connections, CRASHES),
    ],
)
def test_times_are_judged_unless_told_not_to(spoil: Callable[[Evidence], None], promise: str) -> None:
    evidence = good()
    spoil(evidence)
    assert broken(evidence) == [promise]
    assert broken(evidence, timed=False) == []


def test_as_many_may_be_turned_away_for_want_of_descriptors_as_were_counted() -> None:
    evidence = good()
    starved = next(step for step in evidence.steps if step.harm == "starve-descriptors")
    starved.figures["turned away"] = 2
    for at in range(2):
        evidence.calls.append(Call("plain", 100.3, ("127.0.0.1", 3000 + at), 0.0, 100.4, LOST))
    assert broken(evidence) == []
    evidence.calls.append(Call("plain", 100.3, OTHER, 0.0, 100.4, LOST))
    assert broken(evidence) == [CALLS]


def test_nobody_can_be_served_while_the_supervisor_is_dead() -> None:
    evidence = good()
    evidence.closed.append((94.0, 96.0))
    refused(evidence)
    assert broken(evidence) == []


def test_who_outlasts_the_drain_of_a_killed_supervisor_is_cut() -> None:
    evidence = good()
    talk_lost_elsewhere(evidence)
    ended = evidence.talks[0].ended
    evidence.drained.append((ended - 5.5, ended + 0.1))
    assert broken(evidence) == [TALKS]
    evidence.drained[0] = (ended - 5.5, ended)
    assert broken(evidence) == []
    evidence.talks[0].began = ended - 5.0
    assert broken(evidence) == [TALKS]


def test_a_harm_that_could_not_be_done_is_skipped_and_says_why() -> None:
    evidence = good()
    next(step for step in evidence.steps if step.harm == "fill-disk").skipped = "only root may"
    row = next(row for row in judge(evidence) if row.promise.startswith("A full disk"))
    assert (row.kept, row.figures) == (None, "skipped: only root may")


def test_percentile() -> None:
    assert percentile([], 0.99) == 0.0
    assert percentile([3.0], 0.99) == 3.0
    assert percentile(range(1, 101), 0.5) == 51
    assert percentile(range(1, 101), 0.99) == 100
