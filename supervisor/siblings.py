"""Telling the children of one group about each other.

A child that has just become ready is told of every sibling that is not up; from then on of each that goes down or
comes up. Going down begins when the sibling is asked to stop, killed, or gone, whichever is first. Those that are
about to stop themselves, and everybody in a group that ends, are told nothing: they must not take over what a
sibling left. A child that is added while the tree runs is down until it is ready. Of one that was retired nothing more
is told after it has gone down.
"""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.action import TellSibling
from supervisor.node import Leaf, State


def told_up(leaf: Leaf) -> Iterator[TellSibling]:
    """Mark `leaf` as up; yield what it and its siblings are told."""
    leaf.up = True
    for sibling in _siblings(leaf):
        if not sibling.up:
            if _listens(leaf):
                yield TellSibling(leaf.name, sibling.name, False, sibling.last_exit or "not up yet")
        elif _listens(sibling):
            yield TellSibling(sibling.name, leaf.name, True, "")


def told_new(leaf: Leaf) -> Iterator[TellSibling]:
    """Yield what the siblings of a child are told that was not there before: it is not up."""
    for sibling in _siblings(leaf):
        if sibling.up and _listens(sibling):
            yield TellSibling(sibling.name, leaf.name, False, "not up yet")


def told_down(leaf: Leaf, reason: str) -> Iterator[TellSibling]:
    """Mark `leaf` as down; yield what its siblings are told, which is nothing if they knew."""
    if not leaf.up:
        return
    leaf.up = False
    for sibling in _siblings(leaf):
        if sibling.up and _listens(sibling):
            yield TellSibling(sibling.name, leaf.name, False, reason)


def _siblings(leaf: Leaf) -> Iterator[Leaf]:
    for child in leaf.group.children:
        if isinstance(child, Leaf) and child is not leaf:
            yield child


def _listens(leaf: Leaf) -> bool:
    group = leaf.group
    ends = group.ending is not None or leaf.name in group.to_stop
    return not ends and leaf.state is State.RUNNING and not leaf.killed
