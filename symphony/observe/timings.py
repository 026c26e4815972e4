"""Histograms beside records: how long handshakes of a route took, or connecting to an upstream.

Only the first numbers have one, so that neither memory nor what is scraped grows with 100,000 routes. Numbers stay with
their owners (:mod:`symphony.config.numbering`), so who has one keeps it.
"""

from __future__ import annotations

import mmap

from symphony.observe.histogram import WORDS

TIMED = 1024
"""Numbers below this have a histogram."""

_WORD = 8


class TimingArea:
    """One acceptor's histograms of one kind, by number; whose they are, the records beside them say."""

    __slots__ = ("_memory", "words")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, TIMED * WORDS * _WORD)
        self.words: memoryview = memoryview(self._memory).cast("q")

    @staticmethod
    def at(number: int) -> int:
        """Where the histogram of `number` begins, -1 where it has none."""
        return number * WORDS if 0 <= number < TIMED else -1

    def clear(self, number: int) -> None:
        """Begin anew for `number`."""
        at = self.at(number)
        if at >= 0:
            for word in range(at, at + WORDS):
                self.words[word] = 0

    def move(self, number: int, to: TimingArea, to_number: int) -> None:
        """Add the histogram of `number` to another one, as far as there are both, and clear it."""
        at, there = self.at(number), to.at(to_number)
        if at >= 0 and there >= 0:
            for word in range(WORDS):
                to.words[there + word] += self.words[at + word]
        self.clear(number)
