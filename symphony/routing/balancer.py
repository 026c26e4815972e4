"""Which of a route's upstreams a connection goes to: one class per strategy.

The load of an upstream is ``active * 1000 + cpu_permille``, divided by its weight: one connection weighs as much as one
busy CPU. `active` counts the connections of all acceptors, read where each of them counts its own
(:mod:`symphony.observe.records`), at the time of the choice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import accumulate, pairwise
from operator import add, itemgetter
from random import random
from struct import Struct as Layout

from symphony.config.model import Balance
from symphony.observe.records import PLACES
from symphony.routing import rendezvous
from symphony.routing.affinity import AffinityTable
from symphony.routing.upstream import UpstreamSlot, now_ms

COMPARED = 128
"""How many loads are read at most for one choice. Of more upstreams (divided by the number of acceptors) so many are
compared as that allows, but four at least, and others each time: the best of four at random is nearly the best."""

LEAST_COMPARED = 4
_WORD = 8


class Balancer:
    """Picks one of some upstream slots. `turn` is where a strategy that goes round begins, different per acceptor.

    This one is for a single slot, or none; with more of them a subclass says which. Those in `reserve` are for the time
    when none of the others is left.
    """

    __slots__ = ("_impaired", "reserve", "slots")

    def __init__(
        self, slots: tuple[UpstreamSlot, ...], impaired: Collection[str] = (), turn: int = 0
    ) -> None:
        """`impaired` has, at any time, the labels of all upstreams that there is something against."""
        self.slots = slots
        self.reserve: tuple[UpstreamSlot, ...] = ()
        self._impaired = impaired

    def pick(self, excluded: Collection[UpstreamSlot] = (), address: str = "") -> UpstreamSlot | None:
        """Return the slot for a client at `address` that is not in `excluded` (those already tried), or None.

        While none of the others is in good health, the least bad one is returned.
        """
        slots: Sequence[UpstreamSlot] = self.slots
        if excluded or self._impaired or not slots:
            slots = self._candidates(excluded)
        if len(slots) > 1:
            return self._choose(slots, address)
        return slots[0] if slots else None

    def _candidates(self, excluded: Collection[UpstreamSlot]) -> Sequence[UpstreamSlot]:
        left = [slot for slot in self.slots if slot not in excluded]
        if not left:
            left = [slot for slot in self.reserve if slot not in excluded]
            return [min(left, key=lambda slot: slot.record.health.badness)] if left else left
        if not self._impaired or len(left) < 2:
            return left
        now = now_ms()
        good = [slot for slot in left if slot.record.health.available(now)]
        return good or [min(left, key=lambda slot: slot.record.health.badness)]

    def _choose(self, slots: Sequence[UpstreamSlot], address: str) -> UpstreamSlot:
        """Return one of `slots`, two or more of :attr:`slots` in their order."""
        raise NotImplementedError


class LeastConnections(Balancer):
    """The least loaded one; equal loads take turns by their weights."""

    __slots__ = ("_loads", "_next", "_places", "_ties")

    def __init__(
        self, slots: tuple[UpstreamSlot, ...], impaired: Collection[str] = (), turn: int = 0
    ) -> None:
        super().__init__(slots, impaired)
        self._next = turn
        self._places = {slot: place for place, slot in enumerate(slots)}
        self._loads = Loads(slots)
        self._next %= max(1, len(slots))
        self._ties = RoundRobin(slots, turn=turn) if len({slot.weight for slot in slots}) > 1 else None

    def _choose(self, slots: Sequence[UpstreamSlot], address: str) -> UpstreamSlot:
        if slots is self.slots and (loads := self._loads.read()) is not None:
            place = _first_lowest(loads, self._next)
            self._next = (place + 1) % len(loads)  # behind the choice: equal loads take turns
            return self.slots[place]
        count = len(slots)
        places = self._places
        index = self._next
        if count != len(places):  # some are left out: begin at the first from there on that is not
            index = bisect_left(slots, index, key=places.__getitem__)
        index %= count
        limit = max(LEAST_COMPARED, COMPARED // len(slots[0].record.views))
        if count > limit:
            slots = [slots[(index + step) % count] for step in range(limit)]
            index, count = 0, limit
        best = _least(slots, index) if self._ties is None else _least_by_weight(slots, self._ties)
        self._next = (places[best] + 1) % len(places)
        return best


def _least(slots: Sequence[UpstreamSlot], index: int) -> UpstreamSlot:
    """The least loaded of `slots`, the first from `index` on where there are several."""
    best = slots[index]
    lowest = -1
    count = len(slots)
    for _ in range(count):
        slot = slots[index]
        index += 1
        if index == count:
            index = 0
        record = slot.record
        at = record.at
        load = 0
        for words in record.views:
            load += words[at]
        load = load * 1000 + slot.cpu_permille
        if load < lowest or lowest < 0:
            best = slot
            lowest = load
    return best


class Loads:
    """The loads of some slots, all at once: where they are counted is worked out anew only when a record has moved.

    Each acceptor's counts are taken out of its records with one call, by a layout that leaves out all between them.
    """

    __slots__ = ("_changes", "_in_order", "_offset", "_sampled", "_slots", "_unpack", "_views")

    def __init__(self, slots: tuple[UpstreamSlot, ...]) -> None:
        self._slots = slots
        self._sampled = any(slot.thread is not None for slot in slots)
        self._changes = -1
        self._views: tuple[memoryview, ...] = ()
        self._unpack = Layout("=q").unpack_from
        self._offset = 0
        self._in_order: Callable[[Sequence[int]], Sequence[int]] | None = None

    def read(self) -> Sequence[int] | None:
        """Return the load of each slot in order; in connections, where nobody's CPU use is known.

        None where they are not all counted by the same acceptors, are of different weights, or too many to compare.
        """
        if self._changes != PLACES.changes:
            self._find()
        views = self._views
        if not views:
            return None
        unpack, offset = self._unpack, self._offset
        counts: Sequence[int] = unpack(views[0], offset)
        if len(views) > 1:
            sums: Iterable[int] = counts
            for view in views[1:]:
                sums = map(add, sums, unpack(view, offset))
            counts = list(sums)
        if self._in_order is not None:
            counts = self._in_order(counts)
        if not self._sampled:
            return counts
        return [count * 1000 + slot.cpu_permille for count, slot in zip(counts, self._slots, strict=True)]

    def _find(self) -> None:
        self._changes = PLACES.changes
        records = [slot.record for slot in self._slots]
        views = records[0].views
        places = [record.at for record in records]
        ascending = sorted(places)
        if (
            len(set(places)) < len(places)
            or any(record.views is not views for record in records)
            or len({slot.weight for slot in self._slots}) > 1
            or len(places) > max(LEAST_COMPARED, COMPARED // len(views))
        ):
            self._views = ()
            return
        gaps = [after - before - 1 for before, after in pairwise(ascending)]
        self._unpack = Layout("=q" + "".join(f"{gap * _WORD}xq" for gap in gaps)).unpack_from
        self._offset = ascending[0] * _WORD
        self._views = views
        self._in_order = None
        if places != ascending:
            self._in_order = itemgetter(*map(ascending.index, places))


def _first_lowest(loads: Sequence[int], index: int) -> int:
    """Where the lowest load is, the first from `index` on where there are several."""
    lowest = min(loads)
    if loads[index] == lowest:
        return index
    if lowest in loads[index:]:
        return loads.index(lowest, index)
    return loads.index(lowest)


def _least_by_weight(slots: Sequence[UpstreamSlot], ties: RoundRobin) -> UpstreamSlot:
    loads = [(slot.active * 1000 + slot.cpu_permille) / slot.weight for slot in slots]
    lowest = min(loads)
    tied = [slot for slot, load in zip(slots, loads, strict=True) if load == lowest]
    return tied[0] if len(tied) == 1 else ties.choose(tied)


class RoundRobin(Balancer):
    """Each in its turn, as often as its weight says and as evenly spread as that can be ("smooth" round robin).

    With every choice each slot's credit grows by its weight, the highest is taken, and pays what all have gained.
    """

    __slots__ = ("_credit",)

    def __init__(
        self, slots: tuple[UpstreamSlot, ...], impaired: Collection[str] = (), turn: int = 0
    ) -> None:
        super().__init__(
            slots[turn:] + slots[:turn], impaired
        )  # of equal credits the first in this order is taken
        self._credit = dict.fromkeys(slots, 0)

    def _choose(self, slots: Sequence[UpstreamSlot], address: str) -> UpstreamSlot:
        return self.choose(slots)

    def choose(self, slots: Sequence[UpstreamSlot]) -> UpstreamSlot:
        """Return the slot whose turn it is among `slots`, some of :attr:`slots`."""
        credit = self._credit
        gained = 0
        best = slots[0]
        highest = None
        for slot in slots:
            weight = slot.weight
            gained += weight
            mine = credit[slot] = credit[slot] + weight
            if highest is None or mine > highest:
                highest = mine
                best = slot
        credit[best] -= gained
        return best


class Random(Balancer):
    """Any, each as likely as its weight says."""

    __slots__ = ()

    def _choose(self, slots: Sequence[UpstreamSlot], address: str) -> UpstreamSlot:
        reached = list(accumulate(slot.weight for slot in slots))
        mark = random() * reached[-1]  # noqa: S311 - nothing secret depends on it
        for slot, upper in zip(slots, reached, strict=True):
            if mark < upper:
                return slot
        return slots[-1]


class IpHash(Balancer):
    """The one that the client's address belongs to (:mod:`symphony.routing.rendezvous`)."""

    __slots__ = ("_labels",)

    def __init__(
        self, slots: tuple[UpstreamSlot, ...], impaired: Collection[str] = (), turn: int = 0
    ) -> None:
        super().__init__(slots, impaired)
        self._labels = {slot: rendezvous.digest(slot.upstream.label) for slot in slots}

    def _choose(self, slots: Sequence[UpstreamSlot], address: str) -> UpstreamSlot:
        return self.owner(slots, rendezvous.digest(address))

    def owner(self, slots: Sequence[UpstreamSlot], client: int) -> UpstreamSlot:
        """The one of `slots` that a client belongs to, whose address is given as a digest."""
        labels = self._labels
        return max(slots, key=lambda slot: rendezvous.score(client, labels[slot], slot.weight))


class Affinity(IpHash):
    """The one that the client's address was led to before, and the one it belongs to when it comes anew.

    A longer list moves nobody who is remembered. Who is remembered with an upstream that is out or gone is led to the
    one that the address belongs to among the others, and stays there.
    """

    __slots__ = ("_by_number", "_route", "_table", "_ttl_ms")

    def __init__(
        self,
        slots: tuple[UpstreamSlot, ...],
        impaired: Collection[str],
        table: AffinityTable,
        route: str,
        ttl_ms: int,
    ) -> None:
        """`route` keeps the routes' clients apart; `ttl_ms` is how long a client that does not come is remembered."""
        super().__init__(slots, impaired)
        self._table = table
        self._ttl_ms = ttl_ms
        self._route = rendezvous.digest(route)
        self._by_number = {slot.record.number: slot for slot in slots if slot.record.number >= 0}

    def pick(self, excluded: Collection[UpstreamSlot] = (), address: str = "") -> UpstreamSlot | None:
        """Return the slot for a client at `address`, as any balancer does."""
        slots: Sequence[UpstreamSlot] = self.slots
        if excluded or self._impaired:
            slots = self._candidates(excluded)
        if not slots or slots[0] not in self._labels:  # none is left, or only those in reserve
            return slots[0] if slots else None
        client = rendezvous.digest(address)
        key = rendezvous.mix(client, self._route)
        now = now_ms()
        known = self._by_number.get(self._table.recall(key, now, self._ttl_ms))
        if known is not None and known in slots:
            return known
        chosen = self.owner(slots, client)
        # One attempt that failed is no reason to move a client; an upstream that is out or gone is.
        if chosen.record.number >= 0 and not excluded:
            self._table.remember(key, chosen.record.number, now)
        return chosen


STRATEGIES: dict[Balance, type[Balancer]] = {
    "least_connections": LeastConnections,
    "round_robin": RoundRobin,
    "random": Random,
    "ip_hash": IpHash,
}
