"""The order of the chaos tool's harm is the seed's, and nothing is left out of it."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tools.chaos.plan import ACCEPTOR, HARMS, Step, make_plan

ROUND = sum(len(victims) for victims in HARMS.values())


def steps(seed: int, acceptors: int = 2, count: int = ROUND) -> list[Step]:
    return list(itertools.islice(make_plan(seed, acceptors), count))


@given(st.integers(0, 1 << 32), st.integers(1, 8))
def test_the_same_seed_gives_the_same_steps(seed: int, acceptors: int) -> None:
    assert steps(seed, acceptors, 3 * ROUND) == steps(seed, acceptors, 3 * ROUND)


def test_another_seed_gives_others() -> None:
    assert len({tuple(steps(seed)) for seed in range(20)}) == 20


@given(st.integers(0, 1 << 32), st.integers(1, 4))
def test_every_round_has_every_harm_to_every_victim_once(seed: int, acceptors: int) -> None:
    found = steps(seed, acceptors, 2 * ROUND)
    for part in (found[:ROUND], found[ROUND:]):
        done = Counter(
            (step.harm, ACCEPTOR if step.victim.startswith(ACCEPTOR) else step.victim) for step in part
        )
        assert done == Counter((harm, victim) for harm, victims in HARMS.items() for victim in victims)
        assert [step.harm for step in part[: len(HARMS)]] == list(dict.fromkeys(step.harm for step in part))
    numbers = {step.victim for step in found if step.victim.startswith(ACCEPTOR)}
    assert numbers <= {f"{ACCEPTOR}-{number}" for number in range(acceptors)}


def test_chosen_harms_alone() -> None:
    found = list(itertools.islice(make_plan(1, 2, ("hang", "kill")), 40))
    assert {step.harm for step in found} == {"hang", "kill"}
