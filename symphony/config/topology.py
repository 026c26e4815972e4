"""What a configuration says of processes and ports, apart from routes and keys: all that their supervisor needs."""

from __future__ import annotations

import os

from msgspec import Struct

from symphony.config.model import Config
from symphony.config.snapshot import ListenerEntry, Snapshot


class Topology(Struct, frozen=True, array_like=True):
    """How many acceptors there are to be, how long they drain, and the listeners in the order of the file."""

    workers: int
    drain_timeout_ms: int
    listeners: tuple[ListenerEntry, ...]


def topology_of(config: Config, snapshot: Snapshot) -> Topology:
    """Of a configuration and the snapshot made from it."""
    workers = config.workers or len(os.sched_getaffinity(0))
    return Topology(workers, config.drain_timeout_ms, snapshot.listeners)
