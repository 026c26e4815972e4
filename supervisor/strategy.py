"""The rules of restart types and strategies, apart from when and how a restart is carried out."""

from __future__ import annotations

from supervisor.node import Group, Leaf, State
from supervisor.spec import Restart, Strategy


def comes_back(node: Leaf | Group, *, normal: bool) -> bool:
    """Whether a node that had been ready and ended by itself is started again."""
    if node.restart is Restart.TRANSIENT:
        return not normal
    return node.restart is Restart.PERMANENT


def shares_fate(group: Group, node: Leaf | Group) -> list[Leaf | Group]:
    """Return the siblings that are restarted together with `node`, in start order.

    Transient ones that had finished are among them, temporary ones that had are not, nor are those that were retired.
    """
    match group.spec.strategy:
        case Strategy.ONE_FOR_ONE:
            return []
        case Strategy.ONE_FOR_ALL:
            others = [child for child in group.children if child is not node]
        case Strategy.REST_FOR_ONE:
            others = group.children[group.children.index(node) + 1 :]
    return [
        child
        for child in others
        if not child.leaving and not (child.state is State.FINISHED and child.restart is Restart.TEMPORARY)
    ]
