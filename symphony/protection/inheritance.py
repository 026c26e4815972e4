"""What another instance knew of sources, taken over by the one that takes its place.

The two hash differently, and their listeners' clocks read differently. So every source is written anew, with what its
buckets lack and when it comes out of the box. Connections that are open do not count here: they are the other one's.
"""

from __future__ import annotations

from collections.abc import Iterator

from symphony.protection.listener_clocks import ListenerClocks
from symphony.protection.source_store import BOXED, MINUTE, SECOND, SourceStore

_SETS_AT_ONCE = 20


def inherit(store: SourceStore, other: SourceStore, now: float) -> Iterator[int]:
    """Take over the sources of `other` of whom there is anything to tell, some at a time; yield how many.

    Those of listeners that `store` does not know are left out. Nobody else may use `store` meanwhile but to configure
    listeners; `other` may be used on.
    """
    for places in other.used(_SETS_AT_ONCE):
        numbers = {name: number for number, name in enumerate(store.names())}
        pairs = {
            theirs: (ListenerClocks(other, theirs), ListenerClocks(store, numbers[name]))
            for theirs, name in enumerate(other.names())
            if name in numbers
        }
        yield sum(_take(store, other, place, pairs, now) for place in places)


def _take(
    store: SourceStore,
    other: SourceStore,
    place: int,
    pairs: dict[int, tuple[ListenerClocks, ListenerClocks]],
    now: float,
) -> bool:
    pair = pairs.get(other.owner(place))
    if pair is None:
        return False
    theirs, ours = pair
    numbers = other.numbers
    second = numbers[place + SECOND] - theirs.second.read(now)
    minute = numbers[place + MINUTE] - theirs.minute.read(now)
    boxed_until = numbers[place + BOXED]
    if second <= 0.0 and minute <= 0.0 and boxed_until <= now:
        return False
    key = other.key(place)
    mixed = hash((ours.number, key))
    mine = store.find(ours.number, key, mixed)
    if mine < 0:
        mine = store.free_place(mixed)
        if mine < 0:
            return False
        store.fill(mine, ours.number, key, mixed)
    store.numbers[mine + SECOND] = ours.second.read(now) + max(second, 0.0)
    store.numbers[mine + MINUTE] = ours.minute.read(now) + max(minute, 0.0)
    store.numbers[mine + BOXED] = boxed_until
    return True
