"""Whether a generation of acceptors may take connections, and which of them do: one page of shared memory.

Acceptors come and go in generations that hold the same listening sockets: a new one is made ready beside the old one,
then the sockets pass from one to the other. What an acceptor may do to a socket that others hold too depends on whose
turn it is, even in the moment in which its supervisor is gone; so it is not told by a message but reads it here. The
supervisor's process writes `stage`; each acceptor writes its own place, and nobody else does.
"""

from __future__ import annotations

import mmap
from enum import IntEnum

_WORD = 8


class Stage(IntEnum):
    """Where a generation is in its life."""

    AWAITED = 0
    """It gets ready, and touches no socket: those who hold them now serve them, and go on if it fails."""
    SHARING = 1
    """It takes connections, and so do those who held the sockets before. They may still have to go on without it."""
    HOLDING = 2
    """It takes the connections. Whoever of it goes last takes care that no client waits in vain."""
    PASSED_ON = 3
    """Others take the connections, the ones that wait included. It finishes what it has."""


class Tenure:
    """Of one generation with `acceptors` members; made before they are forked."""

    __slots__ = ("_memory", "_values")

    def __init__(self, acceptors: int, stage: Stage = Stage.AWAITED) -> None:
        self._memory = mmap.mmap(-1, (1 + acceptors) * _WORD)
        self._values = memoryview(self._memory).cast("q")
        self.stage = stage

    @property
    def stage(self) -> Stage:
        """Where the generation is."""
        return Stage(self._values[0])

    @stage.setter
    def stage(self, stage: Stage) -> None:
        self._values[0] = stage

    def note(self, index: int, *, accepting: bool) -> None:
        """Acceptor `index` takes connections from its sockets, or does not (yet)."""
        self._values[1 + index] = accepting

    def all_accept(self) -> bool:
        """Whether every acceptor takes connections."""
        return all(self._values[1:])
