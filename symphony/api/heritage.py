"""The memory that outlives an upgrade: what acceptors remember of clients goes from one supervisor to the next."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from structlog import get_logger

from symphony.host.shared_memory import UnusableMemory
from symphony.protection.inheritance import inherit
from symphony.protection.source_store import SourceStore
from symphony.routing.affinity import AffinityTable

AFFINITY = "affinity"
SOURCES = "sources"
_WITHIN_S = 5.0

log = get_logger("upgrade")


@dataclass(frozen=True, slots=True)
class Memory:
    """A piece of memory that is handed on. `layout` says how it is to be read."""

    layout: str
    descriptor: int


def estate(affinity: AffinityTable, sources: SourceStore) -> dict[str, Memory]:
    """What there is to hand on, by name."""
    return {
        AFFINITY: Memory(affinity.LAYOUT, affinity.descriptor),
        SOURCES: Memory(sources.layout, sources.descriptor),
    }


def take_affinity(handed: Mapping[str, Memory]) -> AffinityTable:
    """The table of the one before, which goes on using it, or a new one."""
    memory = handed.get(AFFINITY)
    if memory is not None and _is_known(AFFINITY, memory, AffinityTable.LAYOUT):
        try:
            return AffinityTable(descriptor=memory.descriptor)
        except UnusableMemory as error:
            log.warning("memory_not_taken_over", what=AFFINITY, reason=str(error))
    return AffinityTable()


async def take_sources(handed: Mapping[str, Memory], store: SourceStore) -> None:
    """Take over what the one before knows of sources, as far as it can be done in a few seconds."""
    memory = handed.get(SOURCES)
    if memory is None or not _is_known(SOURCES, memory, store.layout):
        return
    try:
        other = SourceStore(store.capacity, descriptor=memory.descriptor)
    except UnusableMemory as error:
        log.warning("memory_not_taken_over", what=SOURCES, reason=str(error))
        return
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _WITHIN_S
    taken = 0
    for some in inherit(store, other, time.monotonic()):
        taken += some
        await asyncio.sleep(0)
        if loop.time() > deadline:
            log.warning("memory_not_taken_over", what=SOURCES, reason=f"no time for more than {taken}")
            break
    log.info("sources_taken_over", sources=taken)


def _is_known(what: str, memory: Memory, layout: str) -> bool:
    if memory.layout == layout:
        return True
    reason = f"it is laid out as {memory.layout!r}, and only {layout!r} is known"
    log.warning("memory_not_taken_over", what=what, reason=reason)
    os.close(memory.descriptor)
    return False
