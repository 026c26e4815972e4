"""One upstream: what is counted for it over all acceptors, and how one configured entry wants it used."""

from __future__ import annotations

from symphony.config.model import UdsUpstream, Upstream
from symphony.observe.records import (
    BYTES_DOWN,
    BYTES_UP,
    CONNECT_US,
    CONNECTIONS,
    FAILURES,
    UPSTREAM_WORDS,
    Record,
)


class UpstreamRecord(Record):
    """An upstream's record, one per label, whichever routes name it and whatever they say of it besides.

    An attempt to connect counts as active from its beginning, so that a burst of connections spreads. It ends by
    :meth:`failed`, :meth:`abandoned`, or, after :meth:`connected`, by :meth:`closed`.
    """

    __slots__ = ()

    SIZE = UPSTREAM_WORDS

    def begin(self) -> None:
        """An attempt to connect begins."""
        self.words[self.at] += 1

    def connected(self, took_us: int) -> None:
        """The attempt has led to a connection."""
        words, at = self.words, self.at
        words[at + CONNECTIONS] += 1
        words[at + CONNECT_US] += took_us

    def failed(self) -> None:
        """The attempt has failed, and the upstream is to blame."""
        words, at = self.words, self.at
        words[at] -= 1
        words[at + FAILURES] += 1

    def abandoned(self) -> None:
        """The attempt or the connection is over, and says nothing about the upstream."""
        self.words[self.at] -= 1

    def closed(self, up: int, down: int) -> None:
        """The connection is over, with so many bytes moved."""
        words, at = self.words, self.at
        words[at] -= 1
        if up or down:
            words[at + BYTES_UP] += up
            words[at + BYTES_DOWN] += down


class UpstreamSlot:
    """A configured upstream as this process sees it. `thread` is the (pid, tid) whose CPU use counts, or None."""

    __slots__ = ("__weakref__", "cpu_permille", "record", "thread", "upstream", "weight")

    def __init__(self, upstream: Upstream, record: UpstreamRecord) -> None:
        self.upstream = upstream
        self.record = record
        self.weight = upstream.weight
        self.cpu_permille = 0
        self.thread: tuple[int, int] | None = None
        if isinstance(upstream, UdsUpstream) and upstream.pid is not None and upstream.tid is not None:
            self.thread = (upstream.pid, upstream.tid)

    @property
    def active(self) -> int:
        """Connections open to the upstream now, over all acceptors and all routes."""
        return self.record.active

    def __repr__(self) -> str:
        return f"<UpstreamSlot {self.upstream.label} active={self.active} cpu_permille={self.cpu_permille}>"
