"""What becomes of a configuration file when it is loaded."""

from __future__ import annotations

from msgspec import Struct

from symphony.config.model import Config
from symphony.config.problem import ConfigError, Problem, Severity
from symphony.config.route_names import Where
from symphony.config.snapshot import Snapshot, TlsPolicy
from symphony.watch.files import SeenFile


class Loaded(Struct, frozen=True):
    """What became of a configuration file.

    `config` and `snapshot` hold the routes that are in order; both are None when anything is wrong outside single
    routes. `own_policies` has one entry per route of the snapshot: what the route itself says, "" for what it
    leaves to the listener. `broken` has the routes left out: the name of each, and the ids of the listeners that were
    to have it (none: all, or nobody can tell); None for one whose name cannot be read. `seen` are
    all files that were read or should have been: this file first, then certificates and lists. `watch` is what the
    file says about watching them, None when that cannot be told.
    """

    file: str
    config: Config | None
    snapshot: Snapshot | None
    own_policies: tuple[TlsPolicy, ...]
    broken: tuple[tuple[str, Where] | None, ...]
    problems: tuple[Problem, ...]
    seen: tuple[SeenFile, ...] = ()
    watch: bool | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The absolute paths of `seen`."""
        return tuple(seen.path for seen in self.seen)

    def require(self) -> tuple[Config, Snapshot]:
        """Return the configuration and its snapshot. Raises :class:`ConfigError` if any problem is an error."""
        failed = any(problem.severity is Severity.ERROR for problem in self.problems)
        if failed or self.config is None or self.snapshot is None:
            raise ConfigError(self.file, list(self.problems))
        return self.config, self.snapshot
