"""Who is refused by a running instance: sources that exceed their limits, and what the configuration lists."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from msgspec import Struct

from symphony.api.asking import ask_briefly
from symphony.api.names import LIMITER, REGISTRY
from symphony.messages.limiter import BlockedSources, LimiterReply, ListBlocked
from symphony.messages.registry import (
    ConfigDescription,
    DescribeConfig,
    DescribeLists,
    ListenerLists,
    ListsDescription,
    RegistryReply,
)
from symphony.protection.cidr import CidrSet, source_name

ANSWER_WITHIN_S = 5.0


class BlockedEntry(Struct, frozen=True):
    """A source that would be refused now: its address or IPv6 network, and for how long if it stays quiet.

    `reason` is as refusals are counted; `seconds` is 0 for ``too_many_connections``, which ends with a connection.
    """

    listener: str
    source: str
    reason: str
    seconds: float


class StaticLists(Struct, frozen=True):
    """What a listener's configuration lists; networks are merged, and in order."""

    listener: str
    allowlist: tuple[str, ...]
    blocklist: tuple[str, ...]
    ja3_blocklist: tuple[str, ...]
    ja4_blocklist: tuple[str, ...]
    asn_blocklist: tuple[int, ...] = ()


class BlockedReport(Struct, frozen=True):
    """What ``symphony blocked --json`` prints. `silent` names the actors that did not answer."""

    sources: tuple[BlockedEntry, ...]
    left_out: int
    lists: tuple[StaticLists, ...]
    silent: tuple[str, ...]


async def list_blocked(runtime_dir: str, limit: int = 10_000) -> BlockedReport:
    """Ask the instance in `runtime_dir`; at most `limit` sources are listed, and the others counted."""
    limited, listed = await asyncio.gather(
        ask_briefly(runtime_dir, LIMITER, ListBlocked(limit), LimiterReply, ANSWER_WITHIN_S),
        ask_briefly(runtime_dir, REGISTRY, DescribeLists(), RegistryReply, ANSWER_WITHIN_S),
    )
    silent = []
    lists: tuple[ListenerLists, ...] = ()
    if isinstance(listed, ListsDescription):
        lists = listed.listeners
    else:
        silent.append(REGISTRY)
    sources: tuple[BlockedEntry, ...] = ()
    left_out = 0
    if isinstance(limited, BlockedSources):
        prefixes = {entry.listener: entry.ipv6_prefix for entry in lists}
        left_out = limited.left_out
        sources = _entries(limited, prefixes)
    else:
        silent.append(LIMITER)
    return BlockedReport(sources, left_out, tuple(map(_unpack, lists)), tuple(silent))


async def list_exceeding(runtime_dir: str, limit: int) -> tuple[tuple[BlockedEntry, ...], int]:
    """At most `limit` sources that would be refused now, and how many more there are; without the lists."""
    limited, config = await asyncio.gather(
        ask_briefly(runtime_dir, LIMITER, ListBlocked(limit), LimiterReply, ANSWER_WITHIN_S),
        ask_briefly(runtime_dir, REGISTRY, DescribeConfig(), RegistryReply, ANSWER_WITHIN_S),
    )
    listeners = config.listeners if isinstance(config, ConfigDescription) else ()
    if not isinstance(limited, BlockedSources):
        return (), 0
    prefixes = {entry.id: entry.protection.ipv6_prefix for entry in listeners}
    return _entries(limited, prefixes), limited.left_out


def _entries(limited: BlockedSources, prefixes: Mapping[str, int]) -> tuple[BlockedEntry, ...]:
    """`prefixes` has the bits of an IPv6 address by which each listener counts."""
    return tuple(
        BlockedEntry(
            found.listener,
            source_name(found.key, prefixes.get(found.listener, 8 * len(found.key))),
            found.verdict.value,
            round(found.seconds, 3),
        )
        for found in limited.sources
    )


def _unpack(entry: ListenerLists) -> StaticLists:
    return StaticLists(
        entry.listener,
        _networks(entry.allowlist),
        _networks(entry.blocklist),
        entry.ja3_blocklist,
        entry.ja4_blocklist,
        entry.asn_blocklist,
    )


def _networks(packed: bytes) -> tuple[str, ...]:
    return tuple(map(str, CidrSet.from_bytes(packed).networks())) if packed else ()
