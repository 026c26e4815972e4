"""The snapshot that is served: how it begins, what a reload makes of it, and how its version grows.

- A tree's first registry takes the configuration file as it is, and refuses to begin with any error in it.
- That of a tree which takes another one's place does so, too, but with what an operator has said of upstreams.
- A later life of the registry goes on from the stored snapshot of its own tree: the file is applied to it as by a
  reload, so that a file which is broken by now takes nothing away.
- Content that is served already keeps its version; any other gets a higher one, also after a restart of the whole
  tree. What is on disk is never behind what was published.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping

import msgspec
import structlog
from msgspec import Struct

from symphony.config.loaded import Loaded
from symphony.config.model import Config, UdsUpstream, UpstreamMode
from symphony.config.numbering import number_snapshot
from symphony.config.override import override, still_meant
from symphony.config.problem import ConfigError, Problem, Severity
from symphony.config.reload import keep_listeners, merge
from symphony.config.resolve import load
from symphony.config.snapshot import Snapshot
from symphony.config.topology import Topology, topology_of
from symphony.host.descriptors import shortage
from symphony.routing.snapshot_store import SnapshotStore, SnapshotStoreError, StoredSnapshot

log = structlog.get_logger()


class Reloaded(Struct, frozen=True):
    """What came of a reload: `kept` routes stay at their last good version, `left_out` ones never had one."""

    changed: bool
    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    problems: tuple[Problem, ...]
    topology: Topology | None


class SnapshotKeeper:
    """Keeps the snapshot of the configuration at `file`; `tree` is the supervisor's pid,
    `heir_of` that of the one whose place it takes.

    `overrides` are as for :func:`symphony.config.resolve.load`. `current` is there after :meth:`begin`; `problems`
    and `loaded_at` (seconds since the epoch) are those of the last reading of the file, `topology` what the last one
    that could be used wants of processes and ports (None: there was none).
    """

    current: Snapshot

    def __init__(
        self,
        file: str,
        store: SnapshotStore,
        tree: int,
        overrides: Mapping[str, object] | None = None,
        heir_of: int = 0,
    ) -> None:
        self._heir_of = heir_of
        self.file = file
        self.problems: tuple[Problem, ...] = ()
        self.loaded_at = 0.0
        self.topology: Topology | None = None
        self._source = os.path.abspath(file)
        self._store = store
        self._tree = tree
        self._overrides = dict(overrides or {})
        self._started: Config | None = None

    def read(self) -> Loaded:
        """Read the file and all it names. Touches nothing else, so it may run in a thread."""
        loaded = load(self.file, overrides=self._overrides)
        if loaded.snapshot is None or not (text := shortage(loaded.snapshot.listeners)):
            return loaded
        warning = Problem("listeners", text, Severity.WARNING)
        return msgspec.structs.replace(loaded, problems=(*loaded.problems, warning))

    def begin(self, loaded: Loaded, first_life: bool) -> None:
        """Set `current` from what :meth:`read` returned. Raises :class:`ConfigError` when nothing can be served."""
        stored = self._load_stored()
        own = stored is not None and (stored.source, stored.tree) == (self._source, self._tree)
        if stored is not None and own and not first_life:
            merged = merge(stored.snapshot, loaded)
            self.current = merged.snapshot or stored.snapshot
            self._note(merged.problems, merged.topology)
        else:
            config, fresh = loaded.require()
            if stored is not None and self._heir_of and stored.tree == self._heir_of:
                kept = still_meant(stored.snapshot.overrides, fresh)
                fresh = msgspec.structs.replace(fresh, overrides=kept)
            self.current = _continue_version(fresh, stored)
            self._note(loaded.problems, topology_of(config, fresh))
        self._started = loaded.config
        if stored is None or not own or stored.snapshot is not self.current:
            self._save()

    def reload(self, loaded: Loaded) -> Reloaded:
        """Apply what :meth:`read` returned to `current`."""
        merged = merge(self.current, loaded, started=self._started)
        self._note(merged.problems, merged.topology)
        if merged.snapshot is not None:
            self.current = merged.snapshot
            self._save()
        return Reloaded(
            merged.snapshot is not None, merged.kept, merged.left_out, merged.problems, merged.topology
        )

    def keep_listeners(self, ids: Collection[str]) -> bool:
        """Forget the listeners of `current` that are neither among `ids` nor in the file; return whether one was."""
        wanted = self.topology.listeners if self.topology is not None else ()
        pruned = keep_listeners(self.current, {*ids, *(listener.id for listener in wanted)})
        if pruned is self.current:
            return False
        self.current = msgspec.structs.replace(pruned, version=pruned.version + 1)
        self._save()
        return True

    def override(self, route: str, upstream: str, mode: UpstreamMode) -> tuple[str, ...]:
        """Take into `current` what an operator says of an upstream; return the names of the routes it is about.

        Raises :class:`symphony.config.override.NoSuchUpstream`.
        """
        changed, routes = override(self.current, route, upstream, mode)
        if changed.overrides != self.current.overrides:
            self.current = msgspec.structs.replace(changed, version=changed.version + 1)
            self._save()
        return routes

    def outgrow(self, version: int) -> bool:
        """Make the version of `current` higher than `version`, unless it is at least that; return whether it was.

        For a subscriber that serves a version which this registry has lost: its disk was full or was wiped.
        """
        if self.current.version >= version:
            return False
        self.current = msgspec.structs.replace(self.current, version=version + 1)
        self._save()
        return True

    def _note(self, problems: tuple[Problem, ...], topology: Topology | None) -> None:
        self.problems = problems
        self.topology = topology or self.topology
        self.loaded_at = time.time()

    def _load_stored(self) -> StoredSnapshot | None:
        try:
            return self._store.load()
        except SnapshotStoreError as error:
            log.error("stored snapshot not used", reason=str(error))
            return None

    def _save(self) -> None:
        try:
            self._store.save(StoredSnapshot(self._source, self.current, self._tree))
        except SnapshotStoreError as error:
            log.error("snapshot not stored", version=self.current.version, reason=str(error))


def _continue_version(fresh: Snapshot, stored: StoredSnapshot | None) -> Snapshot:
    if stored is None:
        return fresh
    version = stored.snapshot.version
    same = msgspec.structs.replace(number_snapshot(fresh, stored.snapshot), version=version)
    return same if same == stored.snapshot else msgspec.structs.replace(same, version=version + 1)


def sampled_threads(snapshot: Snapshot) -> tuple[tuple[int, int], ...]:
    """Return the (pid, tid) of every upstream whose CPU use counts, each once and in order."""
    upstreams = {upstream for route in snapshot.routes for upstream in route.upstreams}
    return tuple(
        sorted(
            {
                (upstream.pid, upstream.tid)
                for upstream in upstreams
                if isinstance(upstream, UdsUpstream) and upstream.pid is not None and upstream.tid is not None
            }
        )
    )


def first_error(error: ConfigError) -> str:
    """Say in one line what is wrong with a configuration."""
    lines = str(error).splitlines() or [error.file]
    return lines[0] if len(lines) == 1 else f"{lines[0]} (and {len(lines) - 1} more)"
