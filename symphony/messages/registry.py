"""The route registry's mailbox."""

from __future__ import annotations

from msgspec import Struct

from symphony.config.model import UpstreamMode
from symphony.config.problem import Problem
from symphony.config.snapshot import ListenerEntry, Snapshot
from symphony.config.topology import Topology
from symphony.mailbox.envelope import Refused
from symphony.routing.certificates import ServedCertificate


class SubscribeRoutes(Struct, frozen=True, array_like=True, tag=True):
    """Ask for every :class:`RoutesPublished` from now on, beginning with the present one.

    `subscriber` is the asking actor's name, `version` the snapshot it already serves (0 for none): a snapshot of
    that version is not sent again.
    """

    subscriber: str
    version: int


class SubscribeTargets(Struct, frozen=True, array_like=True, tag=True):
    """Ask for every :class:`TargetsPublished` from now on, beginning with the present one."""

    subscriber: str


class SnapshotApplied(Struct, frozen=True, array_like=True, tag=True):
    """An acceptor serves snapshot `version` now."""

    subscriber: str
    version: int


class AwaitApplied(Struct, frozen=True, array_like=True, tag=True):
    """Ask for :class:`AppliedBy` when all of `acceptors` serve `version` or a later one, at the latest in `within_s`
    seconds."""

    version: int
    acceptors: tuple[str, ...]
    within_s: float


class Reload(Struct, frozen=True, array_like=True, tag=True):
    """Read the configuration file again; answered by :class:`ReloadDone`."""


class SetUpstream(Struct, frozen=True, array_like=True, tag=True):
    """Use an upstream of a route otherwise; answered by :class:`UpstreamSet`, or refused when there is none such.

    For `route` and `mode` see :mod:`symphony.config.override`; `upstream` is its label.
    """

    route: str
    upstream: str
    mode: UpstreamMode


class UpstreamSet(Struct, frozen=True, array_like=True, tag=True):
    """It is so in `routes`, from configuration `version` on."""

    version: int
    routes: tuple[str, ...]


class DescribeConfig(Struct, frozen=True, array_like=True, tag=True):
    """Ask for :class:`ConfigDescription`."""


class SubscribeTopology(Struct, frozen=True, array_like=True, tag=True):
    """Ask for every :class:`TopologyPublished` from now on, beginning with the present one."""


class KeepListeners(Struct, frozen=True, array_like=True, tag=True):
    """These listeners are served by somebody: all others may be forgotten, unless the file has them.

    Answered by :class:`ListenersKept`.
    """

    ids: tuple[str, ...]


class RoutesPublished(Struct, frozen=True, array_like=True, tag=True):
    """A whole snapshot, to be taken as one."""

    snapshot: Snapshot


class TargetsPublished(Struct, frozen=True, array_like=True, tag=True):
    """The threads whose CPU load counts for balancing, as (pid, tid) pairs."""

    targets: tuple[tuple[int, int], ...]


class TopologyPublished(Struct, frozen=True, array_like=True, tag=True):
    """The configuration file was read, for whatever reason, and this is what it wants of processes and ports."""

    topology: Topology


class ListenersKept(Struct, frozen=True, array_like=True, tag=True):
    """Nothing but what was named is left, and `version` is served."""

    version: int


class Subscribed(Struct, frozen=True, array_like=True, tag=True):
    """The subscription stands; the present version follows as a push unless the subscriber has it."""

    version: int


class AppliedBy(Struct, frozen=True, array_like=True, tag=True):
    """All serve the version that was asked about, but for acceptors that are `behind`."""

    behind: tuple[str, ...]


class ReloadDone(Struct, frozen=True, array_like=True, tag=True):
    """What came of a reload.

    `changed` is false when the file said what is already served, or when it could not be used at all (then some
    problem is an error). `kept` names the routes that stay at their last good version. `topology` is what the file
    wants of processes and ports, None when it could not be used.
    """

    version: int
    changed: bool
    kept: tuple[str, ...]
    problems: tuple[Problem, ...]
    topology: Topology | None = None


class ConfigDescription(Struct, frozen=True, array_like=True, tag=True):
    """What the registry serves now. `loaded_at` is in seconds since the epoch; `applied` maps acceptor to version."""

    version: int
    file: str
    routes: int
    listeners: tuple[ListenerEntry, ...]
    loaded_at: float
    applied: dict[str, int]
    problems: tuple[Problem, ...]


class DescribeLists(Struct, frozen=True, array_like=True, tag=True):
    """Ask for :class:`ListsDescription`."""


class ListenerLists(Struct, frozen=True, array_like=True):
    """What a listener's protection lists. Networks are packed as CidrSet.to_bytes() does, b"" for none."""

    listener: str
    allowlist: bytes
    blocklist: bytes
    ja3_blocklist: tuple[str, ...]
    ja4_blocklist: tuple[str, ...]
    ipv6_prefix: int
    asn_blocklist: tuple[int, ...] = ()


class ListsDescription(Struct, frozen=True, array_like=True, tag=True):
    """The lists of all listeners, as they are served now."""

    listeners: tuple[ListenerLists, ...]


class DescribeCertificates(Struct, frozen=True, array_like=True, tag=True):
    """Ask for :class:`CertificatesDescribed`."""


class CertificatesDescribed(Struct, frozen=True, array_like=True, tag=True):
    """The certificates that are served now, the one that expires first at the head; no keys."""

    certificates: tuple[ServedCertificate, ...]


RegistryRequest = (
    SubscribeRoutes
    | SubscribeTargets
    | SubscribeTopology
    | SnapshotApplied
    | AwaitApplied
    | KeepListeners
    | Reload
    | SetUpstream
    | DescribeConfig
    | DescribeLists
    | DescribeCertificates
)
RegistryReply = (
    RoutesPublished
    | TargetsPublished
    | TopologyPublished
    | Subscribed
    | ListenersKept
    | AppliedBy
    | ReloadDone
    | UpstreamSet
    | ConfigDescription
    | ListsDescription
    | CertificatesDescribed
    | Refused
)
