"""Which harm is done to whom, in which order: decided by the seed alone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

STATE = ("route-registry", "rate-limiter", "cpu-sampler", "admin")
SUPERVISOR = "supervisor"
ACCEPTOR = "acceptor"
EVERY_ACCEPTOR = "all acceptors"
EVERYBODY_AT_ONCE = "everybody"
EVERYBODY = (SUPERVISOR, *STATE, ACCEPTOR)
CHILDREN = (*STATE, ACCEPTOR)

HARMS: dict[str, tuple[str, ...]] = {
    "kill": CHILDREN,
    "kill-with-backlog": (ACCEPTOR,),
    "kill-all": (EVERY_ACCEPTOR, EVERYBODY_AT_ONCE),
    "kill-in-reload": ("route-registry", ACCEPTOR),
    "replace-acceptors": (EVERY_ACCEPTOR,),
    "upgrade": (SUPERVISOR,),
    "hang": CHILDREN,
    "pause": (SUPERVISOR,),
    "crash-loop": (ACCEPTOR,),
    "starve-cpu": EVERYBODY,
    "starve-descriptors": EVERYBODY,
    "fill-disk": ("route-registry",),
    "flood-garbage": EVERYBODY,
    "flood-oversize": EVERYBODY,
    "flood-version": EVERYBODY,
    "flood-valid": EVERYBODY,
}
"""What is done, and to which kinds of processes."""


class Step(NamedTuple):
    """One harm. `victim` is a process by name, or an acceptor by its number among those of the moment.

    `seed` is for what the harm itself leaves to chance.
    """

    harm: str
    victim: str
    seed: int


def make_plan(seed: int, acceptors: int, harms: tuple[str, ...] = tuple(HARMS)) -> Iterator[Step]:
    """Steps without end, the same for the same arguments.

    Every harm comes once, to one of its victims, before any comes twice; and all have come to all victims before the
    round begins anew.
    """
    rng = random.Random(seed)  # noqa: S311 - an order that can be had again is what is wanted
    for _ in itertools.count():
        waiting = {harm: rng.sample(HARMS[harm], len(HARMS[harm])) for harm in harms}
        while any(waiting.values()):
            for harm in rng.sample(harms, len(harms)):
                if waiting[harm]:
                    kind = waiting[harm].pop()
                    victim = f"{kind}-{rng.randrange(acceptors)}" if kind == ACCEPTOR else kind
                    yield Step(harm, victim, rng.randrange(1 << 32))
