"""All upstreams that an acceptor has to do with: one record per upstream, one slot per configured entry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from weakref import WeakSet, WeakValueDictionary

from symphony.config.model import Balance, Upstream, UpstreamMode
from symphony.observe.record_area import RecordArea
from symphony.observe.record_totals import Totals, add_up
from symphony.observe.records import RecordBook
from symphony.routing.affinity import AffinityTable
from symphony.routing.balancer import STRATEGIES, Affinity, Balancer
from symphony.routing.upstream import UpstreamRecord, UpstreamSlot

LISTEN_AT_ONCE = 500


class UpstreamPool:
    """The slots of every upstream in use, one per configured entry, whichever routes name it.

    A slot lives as long as a balancer or a connection holds it, and so does its record. So an upstream that stays in
    the configuration, or comes back while connections to it are open, keeps its count; one that nobody holds is
    forgotten. An upstream without a number, such as one that only a single connection is led to, is counted here alone.
    """

    __slots__ = (
        "_affinity",
        "_areas",
        "_closed",
        "_heard",
        "_impaired",
        "_index",
        "_records",
        "_sampled",
        "_slots",
        "_to_listen",
    )

    def __init__(
        self,
        areas: Sequence[RecordArea] = (),
        index: int = 0,
        closed: RecordArea | None = None,
        affinity: AffinityTable | None = None,
    ) -> None:
        """`areas` has the records of every acceptor, of which this one is number `index`; none: nothing is shared.

        `closed` has what acceptors counted that are gone for good; `affinity` remembers clients for all acceptors.
        """
        self._affinity = affinity or AffinityTable()
        self._areas = areas
        self._closed = () if closed is None else (closed,)
        self._index = index
        self._heard = [area.changes for area in areas]
        self._to_listen: list[UpstreamRecord] = []
        impaired = self._impaired = set[str]()
        self._records = RecordBook(
            lambda label: UpstreamRecord(label, impaired), areas, areas[index] if areas else None
        )
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
        route: str = "",
        modes: Mapping[str, UpstreamMode] | None = None,
        first: Upstream | None = None,
    ) -> Balancer:
        """Return a balancer over the slots of `upstreams`, whose numbers are given in the same order or not at all.

        `route` is the route's name, which keeps its clients apart from those of other routes; `modes` is what an
        operator says of upstreams, by their labels; `first` is the first entry of the whole list, where these are a
        part of it.
        """
        slots = tuple(dict.fromkeys(map(self.slot, upstreams, numbers or repeat(-1))))
        if not modes:
            return self._balancer(slots, strategy, route, first)
        ready, down = (
            tuple(slot for slot in slots if modes.get(slot.upstream.label, "ready") == mode)
            for mode in ("ready", "down")
        )
        balancer = self._balancer(ready, strategy, route, first or (slots[0].upstream if slots else None))
        balancer.reserve = down
        return balancer

    def _balancer(
        self,
        slots: tuple[UpstreamSlot, ...],
        strategy: Balance,
        route: str,
        first: Upstream | None = None,
    ) -> Balancer:
        """`first` is the first entry of the list, where that is not the first of `slots`."""
        if (
            slots and (first or slots[0].upstream).ip_affinity
        ):  # also a single one: the list may become longer
            ttl_ms = (first or slots[0].upstream).ip_affinity_ttl_ms
            return Affinity(slots, self._impaired, self._affinity, route, ttl_ms)
        if len(slots) < 2:
            return Balancer(slots)
        # Each acceptor begins at another upstream: otherwise those that start together would all choose the first.
        turn = self._index * len(slots) // max(1, len(self._areas))
        return STRATEGIES[strategy](slots, self._impaired, turn)

    def listen(self) -> bool:
        """Take what other acceptors have found out about upstreams since the last time.

        Returns whether there is more than can be taken at one go.
        """
        waiting = self._to_listen
        for at, area in enumerate(self._areas):
            changes = area.changes
            if at == self._index or changes == self._heard[at]:
                continue
            numbers = area.changed_since(self._heard[at])
            self._heard[at] = changes
            if numbers is None:
                waiting[:] = self._records
            else:
                waiting.extend(filter(None, map(self._records.at_number, numbers)))
        for record in waiting[-LISTEN_AT_ONCE:]:
            record.listen()
        del waiting[-LISTEN_AT_ONCE:]
        return bool(waiting)

    def totals(self, slot: UpstreamSlot) -> Totals:
        """What all acceptors have counted for a slot's upstream."""
        record = slot.record
        if record.number < 0:
            return record.totals
        return add_up((*self._areas, *self._closed), record.number, record.key)

    def impaired(self) -> dict[str, str]:
        """The state of every upstream that there is something against, as far as this acceptor knows, by its label."""
        return {record.key: record.health.state for record in self._records if record.key in self._impaired}

    def forget_gone(self) -> None:
        """Forget what was against upstreams that nobody has to do with any more."""
        self._impaired.intersection_update([record.key for record in self._records])

    def take_samples(self, samples: Iterable[tuple[int, int, int]]) -> None:
        """Take CPU use as (pid, tid, permille); a thread that is not among them counts as idle."""
        use = {(pid, tid): permille for pid, tid, permille in samples}
        for slot in self._sampled:
            if slot.thread is not None:
                slot.cpu_permille = use.get(slot.thread, 0)
