"""Which of a route's upstreams a connection goes to, and what is known about each.

The load of an upstream is ``active * 1000 + cpu_permille``: one connection weighs as much as one busy CPU.
The lowest load wins; equal loads take turns. `active` counts the connections of this process.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from weakref import WeakSet, WeakValueDictionary

from symphony.config.model import UdsUpstream, Upstream


class UpstreamSlot:
    """One upstream as this process sees it.

    Whoever connects to it adds one to `active` and takes it away at the end. `thread` is the (pid, tid) whose
    CPU use counts, or None.
    """

    __slots__ = ("__weakref__", "active", "cpu_permille", "thread", "upstream")

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.active = 0
        self.cpu_permille = 0
        self.thread: tuple[int, int] | None = None
        if isinstance(upstream, UdsUpstream) and upstream.pid is not None and upstream.tid is not None:
            self.thread = (upstream.pid, upstream.tid)

    def __repr__(self) -> str:
        return f"<UpstreamSlot {self.upstream.label} active={self.active} cpu_permille={self.cpu_permille}>"


class UpstreamPool:
    """The slots of every upstream in use, one per configured upstream, whichever routes name it.

    A slot lives as long as a balancer or a connection holds it. So an upstream that stays in the
    configuration, or comes back while connections to it are open, keeps its count; one that nobody holds is
    forgotten.
    """

    __slots__ = ("_sampled", "_slots")

    def __init__(self) -> None:
        self._slots: WeakValueDictionary[Upstream, UpstreamSlot] = WeakValueDictionary()
        self._sampled: WeakSet[UpstreamSlot] = WeakSet()

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, upstream: Upstream) -> UpstreamSlot:
        """Return the slot of `upstream`, the same one for as long as somebody holds it."""
        slot = self._slots.get(upstream)
        if slot is None:
            slot = self._slots[upstream] = UpstreamSlot(upstream)
            if slot.thread is not None:
                self._sampled.add(slot)
        return slot

    def balancer(self, upstreams: Iterable[Upstream]) -> Balancer:
        """Return a balancer over the slots of `upstreams`."""
        return Balancer(tuple(self.slot(upstream) for upstream in upstreams))

    def take_samples(self, samples: Iterable[tuple[int, int, int]]) -> None:
        """Take CPU use as (pid, tid, permille); a thread that is not among them counts as idle."""
        use = {(pid, tid): permille for pid, tid, permille in samples}
        for slot in self._sampled:
            if slot.thread is not None:
                slot.cpu_permille = use.get(slot.thread, 0)


class Balancer:
    """Picks the least loaded of some upstream slots."""

    __slots__ = ("_next", "slots")

    def __init__(self, slots: tuple[UpstreamSlot, ...]) -> None:
        self.slots = slots
        self._next = 0

    def pick(self, excluded: Collection[UpstreamSlot] = ()) -> UpstreamSlot | None:
        """Return the least loaded slot that is not in `excluded` (those already tried), or None."""
        slots = self.slots
        count = len(slots)
        if count == 1:
            only = slots[0]
            return None if excluded and only in excluded else only
        best: UpstreamSlot | None = None
        lowest = best_index = 0
        index = self._next
        for _ in range(count):
            slot = slots[index]
            index += 1
            if index == count:
                index = 0
            load = slot.active * 1000 + slot.cpu_permille
            if (best is None or load < lowest) and not (excluded and slot in excluded):
                best = slot
                lowest = load
                best_index = index
        if best is not None:
            self._next = best_index  # the search begins behind the last choice: equal loads take turns
        return best
