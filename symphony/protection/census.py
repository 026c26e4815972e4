"""Who is in a source store, for those who only look: how many sources, and which of them would be refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from symphony.protection.listener_clocks import ListenerClocks
from symphony.protection.penalty import SourceLimits, Verdict
from symphony.protection.source_store import BOXED, MINUTE, SECOND, SourceStore


class BlockedSource(Struct, frozen=True, array_like=True):
    """A source that would be refused now: why, and for how many seconds if nothing happens (0 when unknown)."""

    listener: str
    key: bytes
    verdict: Verdict
    seconds: float


def count(store: SourceStore) -> Iterator[int]:
    """Count all sources, some thousands at a time: there are as many as these numbers together."""
    for places in store.used():
        yield len(places)


def blocked(
    store: SourceStore, limits: Mapping[str, SourceLimits], now: float
) -> Iterator[list[BlockedSource]]:
    """Go through the sources that a bucket or the box refuses now, some thousands at a time.

    `limits` are those of each listener; sources of others are left out. Nothing is locked: what is read of a source
    that gets its place at this moment may be another's.
    """
    numbers = store.numbers
    for places in store.used():
        names = store.names()
        clocks = {number: ListenerClocks(store, number) for number in range(len(names))}
        found: list[BlockedSource] = []
        for place in places:
            number = store.owner(place)
            known = clocks.get(number)
            if known is None or (limit := limits.get(names[number])) is None:
                continue
            boxed_for = numbers[place + BOXED] - now
            if limit.penalty_s and boxed_for > 0.0:
                found.append(BlockedSource(names[number], store.key(place), Verdict.PENALTY_BOXED, boxed_for))
                continue
            for at, clock, verdict in (
                (SECOND, known.second, Verdict.RATE_LIMITED),
                (MINUTE, known.minute, Verdict.SUSTAINED_LIMITED),
            ):
                lacking = numbers[place + at] - clock.empty_above(now)
                if lacking > 0.0:
                    seconds = lacking / clock.rate
                    found.append(BlockedSource(names[number], store.key(place), verdict, seconds))
                    break
        yield found
