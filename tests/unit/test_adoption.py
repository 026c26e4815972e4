"""Who serves the listening sockets of acceptors that are gone."""

from __future__ import annotations

from itertools import combinations

import pytest

from symphony.connection.adoption import Neighbourhood


def duties(count: int, down: set[int]) -> dict[int, frozenset[int]]:
    """What each live acceptor of `count` serves besides its own, when all of them know that `down` are."""
    found = {}
    for own in range(count):
        if own not in down:
            neighbourhood = Neighbourhood(own, count)
            for index in down:
                neighbourhood.mark_down(index)
            found[own] = neighbourhood.duties()
    return found


def test_next_live_neighbour_upwards_and_around() -> None:
    assert duties(4, {1}) == {0: frozenset(), 2: frozenset({1}), 3: frozenset()}
    assert duties(4, {3}) == {0: frozenset({3}), 1: frozenset(), 2: frozenset()}
    assert duties(4, {1, 2}) == {0: frozenset(), 3: frozenset({1, 2})}
    assert duties(4, {0, 2, 3}) == {1: frozenset({0, 2, 3})}


@pytest.mark.parametrize("count", range(1, 8))
def test_each_orphan_has_exactly_one_heir(count: int) -> None:
    for size in range(count):
        for down in combinations(range(count), size):
            served = [index for each in duties(count, set(down)).values() for index in each]
            assert sorted(served) == list(down)


def test_one_that_is_back_is_given_back() -> None:
    neighbourhood = Neighbourhood(2, 3)
    neighbourhood.mark_down(0)
    neighbourhood.mark_down(1)
    assert neighbourhood.duties() == {0, 1}
    neighbourhood.mark_up(0)
    assert neighbourhood.duties() == {1}
    neighbourhood.mark_up(1)
    neighbourhood.mark_up(1)
    assert neighbourhood.duties() == frozenset()


def test_an_heir_that_goes_hands_on() -> None:
    neighbourhood = Neighbourhood(0, 3)
    neighbourhood.mark_down(1)
    assert neighbourhood.duties() == frozenset()  # number 2 is its heir
    neighbourhood.mark_down(2)
    assert neighbourhood.duties() == {1, 2}


def test_nobody_is_gone_in_its_own_eyes() -> None:
    neighbourhood = Neighbourhood(1, 2)
    neighbourhood.mark_down(1)
    assert neighbourhood.duties() == frozenset()
