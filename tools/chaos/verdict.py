"""Which promises were kept, from what was written down. No process and no clock here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tools.chaos.plan import ACCEPTOR, HARMS
from tools.chaos.records import Call, Death, Evidence, StepResult, Talk

CONNECT_P99_S = 0.4
"""Of connecting, TLS included, while one acceptor is in a crash loop."""
BACK_WITHIN_S = 1.0
REPLACED_WITHIN_S = 4.0
"""Two seconds without a heartbeat, half a second until the supervisor looks, and a start."""
READY_WITHIN_S = 5.0
IN_FLIGHT_S = 1.0
"""How long after a death an answer may still be read that was sent before it."""


@dataclass
class Row:
    """One promise: whether it was kept (None: nothing happened that could have broken it), and with what figures."""

    promise: str
    kept: bool | None
    figures: str
    problems: list[str] = field(default_factory=list)


def judge(evidence: Evidence, *, timed: bool = True) -> list[Row]:
    """One row per promise. `timed` False shows times, but judges none: for a machine with other things to do."""
    excused = _excused(evidence)
    return [
        _never_refused(evidence),
        _exactly_the_victims(evidence, excused),
        _others_untouched(evidence),
        _right_answers(evidence),
        _queues_served(evidence),
        _back(evidence, timed),
        _replaced(evidence, timed),
        _crash_loop(evidence, timed),
        *(_steps(evidence, *each) for each in _BY_HARM),
        _supervisor_killed(evidence, timed),
        _steps(evidence, "Nothing is left of connections and processes that are over", ("leaks",)),
        _log(evidence),
    ]


_KILLS = ("kill", "kill-all", "kill-in-reload")
_BY_HARM = (
    ("A supervisor that sleeps is missed by nobody", ("pause",)),
    ("New acceptors and a new supervisor take over unnoticed", ("replace-acceptors", "upgrade")),
    ("A process that is short of CPU is not taken for hung", ("starve-cpu",)),
    ("Nobody dies for want of descriptors", ("starve-descriptors",)),
    ("A full disk stops no traffic, and is recovered from", ("fill-disk",)),
    (
        "Floods of mailboxes cut off the sender alone",
        tuple(name for name in HARMS if name.startswith("flood")),
    ),
)


def culprit(op: Call | Talk, deaths: Iterable[Death]) -> Death | None:
    """The death that took an operation with it: the victim held its connection when it was stopped."""
    for death in deaths:
        if (
            op.address in death.clients
            and op.began <= death.frozen_at
            and (not op.ended or op.ended >= death.frozen_at)
        ):
            return death
    return None


def _operations(evidence: Evidence) -> list[Call | Talk]:
    return [*evidence.calls, *evidence.talks]


def percentile(values: Iterable[float], share: float) -> float:
    """The value that `share` of all do not exceed; 0.0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def _excused(evidence: Evidence) -> dict[int, StepResult]:
    """Calls and talks that an acceptor turned away for want of descriptors, by id: as many as it has counted."""
    found: dict[int, StepResult] = {}
    for step in evidence.steps:
        left = int(step.figures.get("turned away", 0))
        for op in _operations(evidence):
            if (
                left
                and op.error
                and not culprit(op, evidence.deaths)
                and step.began <= op.ended <= step.ended
            ):
                found[id(op)] = step
                left -= 1
    return found


def _never_refused(evidence: Evidence) -> Row:
    def by_intent(call: Call) -> bool:
        return any(begin <= call.ended and call.began <= end for begin, end in evidence.closed)

    refused = [call for call in evidence.calls if call.error == "refused" and not by_intent(call)]
    return Row(
        "New connections are never refused",
        not refused if evidence.calls else None,
        f"{len(evidence.calls)} made, {len(refused)} refused",
        [f"{call.route} at {call.began:.3f}" for call in refused],
    )


def _exactly_the_victims(evidence: Evidence, excused: dict[int, StepResult]) -> Row:
    failed = [call for call in evidence.calls if call.error and call.error != "refused"]
    inside = [call for call in failed if culprit(call, evidence.deaths)]
    held = [call for call in evidence.calls if culprit(call, evidence.deaths)]
    starved = [call for call in failed if id(call) in excused]
    others = [call for call in failed if not culprit(call, evidence.deaths) and id(call) not in excused]
    unfinished = [call for call in evidence.calls if not call.is_over]
    figures = f"{len(evidence.calls)} calls; killed acceptors held {len(held)}, of these {len(inside)} failed"
    figures += f" and {len(held) - len(inside)} had their answer"
    if starved:
        figures += f"; {len(starved)} turned away for want of descriptors, as counted"
    figures += f"; {len(others)} others failed"
    problems = [
        f"{call.route} at {call.began:.3f} for {call.ended - call.began:.3f} s: {call.error}"
        for call in others
    ]
    problems += [f"{call.route} at {call.began:.3f} never ended" for call in unfinished]
    kept = not others and not unfinished if evidence.calls else None
    return Row("Calls fail only with the acceptor that held them", kept, figures, problems)


def _others_untouched(evidence: Evidence) -> Row:
    excused = _excused(evidence)

    def drained(talk: Talk) -> bool:
        return any(talk.began <= killed and talk.ended >= cut for killed, cut in evidence.drained)

    problems = []
    lost = 0
    for talk in evidence.talks:
        taken = culprit(talk, evidence.deaths)
        if taken is not None and talk.error:
            lost += 1
        elif taken is not None and talk.answered_at > taken.killed_at + IN_FLIGHT_S:
            problems.append(f"{talk.route} talked on although {taken.name} was killed: it was not held there")
        elif talk.error and talk.error != "refused" and id(talk) not in excused and not drained(talk):
            problems.append(
                f"{talk.kind} on {talk.route}, {talk.answers} answers, {talk.moved} bytes: {talk.error}"
            )
    echoes = [talk for talk in evidence.talks if talk.kind == "echo"]
    bulk = [talk for talk in evidence.talks if talk.kind == "bulk"]
    answers, mib = sum(talk.answers for talk in echoes), sum(talk.moved for talk in bulk) / 2**20
    figures = (
        f"{len(echoes)} connections with {answers} answers, {len(bulk)} bulk transfers with {mib:.0f} MiB; "
    )
    figures += f"{lost} lost with their acceptor, {len(problems)} otherwise"
    return Row(
        "Open connections of other processes are untouched",
        not problems if evidence.talks else None,
        figures,
        problems,
    )


def _right_answers(evidence: Evidence) -> Row:
    wrong = [op for op in _operations(evidence) if op.error.startswith("wrong")]
    answered = sum(call.is_over and not call.error for call in evidence.calls)
    figures = f"{answered} calls answered, {len(wrong)} operations with a wrong answer"
    return Row(
        "Every answer is the right one", not wrong if answered else None, figures, [op.error for op in wrong]
    )


def _queues_served(evidence: Evidence) -> Row:
    steps = [step for step in evidence.steps if step.harm == "kill-with-backlog"]
    waited, served = _sum(steps, "waited in the queue"), _sum(steps, "of these served")
    slowest = max((step.figures.get("slowest served after, s", 0.0) for step in steps), default=0.0)
    return Row(
        "What waits for a killed acceptor is served by others",
        _none_wrong(steps) if waited else None,
        f"{waited:.0f} waited, {served:.0f} served, the last {slowest * 1000:.0f} ms after the kill",
        _problems(steps),
    )


def _back(evidence: Evidence, timed: bool) -> Row:
    steps = [step for step in evidence.steps if step.harm in _KILLS and step.victim != "supervisor"]
    return _recovered("Killed actors are back", steps, "back after, s", BACK_WITHIN_S if timed else None)


def _replaced(evidence: Evidence, timed: bool) -> Row:
    steps = [step for step in evidence.steps if step.harm == "hang"]
    limit_s = REPLACED_WITHIN_S if timed else None
    return _recovered("Hung actors are missed and replaced", steps, "replaced after, s", limit_s)


def _recovered(promise: str, steps: list[StepResult], figure: str, limit_s: float | None) -> Row:
    """What the victims of `steps` were, and the longest time until one was well again, by a figure's name."""
    times = [step.figures[figure] for step in steps if figure in step.figures]
    problems = _problems(steps)
    if limit_s is not None and times and max(times) > limit_s:
        problems.append(f"{max(times):.2f} s is more than {limit_s:g} s")
    kinds = Counter(_kind(step.victim) for step in steps)
    figures = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    slowest = f"slowest {max(times) * 1000:.0f} ms" if times else "no time was measured"
    return Row(promise, not problems if steps else None, f"{figures}; {slowest}", problems)


def _crash_loop(evidence: Evidence, timed: bool) -> Row:
    steps = [step for step in evidence.steps if step.harm == "crash-loop"]
    times: list[float] = []
    problems = _problems(steps)
    for step in steps:
        until = step.figures.get("until, s", step.ended)
        calls = [call for call in evidence.calls if step.began <= call.began <= until]
        times += [call.secured_at - call.began for call in calls if call.secured_at and not call.error]
    p99 = percentile(times, 0.99)
    if timed and p99 >= CONNECT_P99_S:
        problems.append(
            f"the p99 of connecting is {p99 * 1000:.0f} ms; promised are {CONNECT_P99_S * 1000:.0f} ms"
        )
    crashes = _sum(steps, "crashes")
    figures = (
        f"{crashes:.0f} crashes, {len(times)} connections meanwhile, p99 of connecting {p99 * 1000:.0f} ms"
    )
    return Row(
        "An acceptor in a crash loop costs nobody else", not problems if times else None, figures, problems
    )


def _steps(evidence: Evidence, promise: str, harms: tuple[str, ...]) -> Row:
    steps = [step for step in evidence.steps if step.harm in harms]
    done = [step for step in steps if not step.skipped]
    if steps and not done:
        return Row(promise, None, f"skipped: {steps[0].skipped}")
    names = [
        name
        for name in dict.fromkeys(name for step in done for name in step.figures)
        if not name.endswith(", s")
    ]
    figures = [f"{len(done)} times", *(f"{name} {_sum(done, name):.0f}" for name in names)]
    return Row(promise, _none_wrong(done) if done else None, ", ".join(figures), _problems(done))


def _supervisor_killed(evidence: Evidence, timed: bool) -> Row:
    steps = [step for step in evidence.steps if step.harm == "kill" and step.victim == "supervisor"]
    problems = _problems(steps)
    ready = max((step.figures.get("successor ready after, s", 0.0) for step in steps), default=0.0)
    gone = max((step.figures.get("last orphan gone after, s", 0.0) for step in steps), default=0.0)
    if timed and ready > READY_WITHIN_S:
        problems.append(f"the successor took {ready:.1f} s")
    held, talked_on = _sum(steps, "open connections"), _sum(steps, "of these talked on")
    figures = f"{held:.0f} open connections, {talked_on:.0f} talked on; successor on the same ports after "
    figures += f"{ready:.2f} s; {_sum(steps, 'orphans'):.0f} orphans, gone after {gone:.1f} s"
    promise = "A killed supervisor's children drain and leave, and a new one begins at once"
    return Row(promise, not problems if steps else None, figures, problems)


def _log(evidence: Evidence) -> Row:
    found = evidence.tracebacks
    return Row(
        "No process of the tree raises what it does not handle", not found, f"{len(found)} tracebacks", found
    )


def _kind(name: str) -> str:
    return ACCEPTOR if name.startswith(ACCEPTOR) else name


def _sum(steps: list[StepResult], figure: str) -> float:
    return sum(step.figures.get(figure, 0.0) for step in steps)


def _none_wrong(steps: list[StepResult]) -> bool:
    return not any(step.problems for step in steps)


def _problems(steps: list[StepResult]) -> list[str]:
    return [f"{step.harm} {step.victim}: {problem}" for step in steps for problem in step.problems]
