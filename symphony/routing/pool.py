"""All upstreams that an acceptor has to do with: one record per upstream, one slot per configured entry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from weakref import WeakSet, WeakValueDictionary

from symphony.config.model import Balance, Upstream
from symphony.observe.records import RecordArea, RecordBook
from symphony.routing.balancer import STRATEGIES, Balancer
from symphony.routing.upstream import UpstreamRecord, UpstreamSlot


class UpstreamPool:
    """The slots of every upstream in use, one per configured entry, whichever routes name it.

    A slot lives as long as a balancer or a connection holds it, and so does its record. So an upstream that stays in
    the configuration, or comes back while connections to it are open, keeps its count; one that nobody holds is
    forgotten. An upstream without a number, such as one that only a single connection is led to, is counted here alone.
    """

    __slots__ = ("_acceptors", "_index", "_records", "_sampled", "_slots")

    def __init__(self, areas: Sequence[RecordArea] = (), index: int = 0) -> None:
        """`areas` has the records of every acceptor, of which this one is number `index`; none: nothing is shared."""
        self._acceptors = max(1, len(areas))
        self._index = index
        self._records = RecordBook(UpstreamRecord, areas, areas[index] if areas else None)
        self._slots: WeakValueDictionary[Upstream, UpstreamSlot] = WeakValueDictionary()
        self._sampled: WeakSet[UpstreamSlot] = WeakSet()

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, upstream: Upstream, number: int = -1) -> UpstreamSlot:
        """Return the slot of `upstream`, the same one for as long as somebody holds it."""
        record = self._records.record(upstream.label, number)
        slot = self._slots.get(upstream)
        if slot is None:
            slot = self._slots[upstream] = UpstreamSlot(upstream, record)
            if slot.thread is not None:
                self._sampled.add(slot)
        return slot

    def balancer(
        self,
        upstreams: Iterable[Upstream],
        numbers: Iterable[int] = (),
        strategy: Balance = "least_connections",
    ) -> Balancer:
        """Return a balancer over the slots of `upstreams`, whose numbers are given in the same order or not at all."""
        slots = tuple(dict.fromkeys(map(self.slot, upstreams, numbers or repeat(-1))))
        if len(slots) < 2:
            return Balancer(slots)
        # Each acceptor begins at another upstream: otherwise those that start together would all choose the first.
        return STRATEGIES[strategy](slots, self._index * len(slots) // self._acceptors)

    def take_samples(self, samples: Iterable[tuple[int, int, int]]) -> None:
        """Take CPU use as (pid, tid, permille); a thread that is not among them counts as idle."""
        use = {(pid, tid): permille for pid, tid, permille in samples}
        for slot in self._sampled:
            if slot.thread is not None:
                slot.cpu_permille = use.get(slot.thread, 0)
