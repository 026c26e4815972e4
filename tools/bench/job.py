"""What the load process is told and what it answers: JSON on its standard input and output."""

from __future__ import annotations

from msgspec import Struct, field


class SideJob(Struct, kw_only=True, frozen=True):
    """One proxy: where it listens and the processes whose CPU counts; `idle`, when given, replaces the job's."""

    name: str
    port: int
    pids: list[int]
    idle: list[int] | None = None


class Job(Struct, kw_only=True, frozen=True):
    """One measurement. Counts are per side.

    `request` is what :func:`tools.bench.content.request_for` knows, `version` one of TLS or "plain" for none at all.

    kind `closed`: `connections` kept open, each with one request in flight; repeated for every number in `idle`
    (idle connections held besides). `fresh`: one connection per operation, `connections` at a time.
    `rate`: `rate` requests a second over `connections`, due times fixed in advance. `hold`: idle connections, memory
    read at every number in `idle`.

    `pinned`: the client offers one cipher, so that all sides must use the same.
    """

    kind: str
    sides: list[SideJob]
    request: str = "small"
    version: str = "1.3"
    resume: bool = False
    connections: int = 25
    warmup: int = 0
    operations: int = 0
    idle: list[int] = field(default_factory=lambda: [0])
    rate: float = 0.0
    limit_s: float = 60.0
    pinned: bool = True


class Level(Struct, kw_only=True):
    """What was measured at one number of idle connections."""

    idle: int
    operations: int = 0
    cpu_ns: int = 0
    seconds: float = 0.0
    private_bytes: int = 0
    cpu_ns_of: dict[str, int] = field(default_factory=dict)


class SideResult(Struct, kw_only=True):
    """One proxy's figures; `errors` not empty means that nothing here may be used."""

    name: str
    errors: list[str] = field(default_factory=list)
    negotiated: str = ""
    levels: list[Level] = field(default_factory=list)
    latency_us: dict[str, float] = field(default_factory=dict)


class Result(Struct, kw_only=True):
    """The load process's answer; `failure` says why it could not measure at all."""

    sides: list[SideResult]
    failure: str = ""
