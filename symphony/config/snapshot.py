"""The route snapshot: the whole configuration as acceptors use it, with every file already read.

The registry makes it, writes it to disk and publishes it; acceptors build their route table and TLS contexts from
it. It repeats nothing: routes name a TLS policy by index, policies name an identity and a client authority by
digest, so that 10,000 routes on one certificate carry that certificate once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from msgspec import Struct

from symphony.config.model import Balance, Fingerprint, SourceAddressHeader, Upstream, UpstreamMode
from symphony.protection.penalty import SourceLimits


class Identity(Struct, frozen=True, array_like=True):
    """A certificate chain (leaf first) and its private key, both PEM."""

    chain_pem: bytes
    key_pem: bytes

    @property
    def digest(self) -> str:
        """What snapshots name it by."""
        length = len(self.chain_pem).to_bytes(8, "big")
        return hashlib.sha256(length + self.chain_pem + self.key_pem).hexdigest()

    def __repr__(self) -> str:
        """Print no key, not even in a traceback."""
        return "Identity(...)"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Print none in a rich traceback either, which would otherwise show every field."""
        return []


class ClientAuthority(Struct, frozen=True, array_like=True):
    """The authorities (PEM) that client certificates must come from, and whether one must be sent."""

    ca_pem: bytes
    required: bool

    @property
    def digest(self) -> str:
        """What snapshots name it by."""
        return hashlib.sha256((b"\1" if self.required else b"\0") + self.ca_pem).hexdigest()


class TlsPolicy(Struct, frozen=True, array_like=True):
    """What makes one TLS context: an identity, a client authority ("" for none) and the ALPN offer.

    The identity is "" only where a suspended route has none: no context is made then, and a connection that is resolved
    to be terminated has to be given one, but the client authority holds all the same.
    """

    identity: str
    client_authority: str
    http2: bool


class ProtectionEntry(Struct, frozen=True, array_like=True):
    """What a listener refuses. Lists of networks are named by digest, "" for none (:attr:`Snapshot.networks`).

    `asn_networks` are those of the autonomous systems in `asn_blocklist`. Fingerprints are in lower case. Sources are
    counted by the first `ipv6_prefix` bits of an IPv6 address.
    """

    allowlist: str = ""
    blocklist: str = ""
    ja3_blocklist: tuple[str, ...] = ()
    ja4_blocklist: tuple[str, ...] = ()
    require_sni: bool = False
    limits: SourceLimits = SourceLimits()
    ipv6_prefix: int = 64
    asn_blocklist: tuple[int, ...] = ()
    asn_networks: str = ""


class ListenerEntry(Struct, frozen=True, array_like=True):
    """A listener. `id` is ``host:port`` as configured (with ``#n`` where port 0 repeats it).

    `trusted_proxies` is empty unless connections come with PROXY headers, and then names who may send them.
    `mode` is ``tls`` or ``http``; `redirect_port` is for the latter.
    """

    id: str
    host: str
    port: int
    max_connections: int
    idle_timeout_ms: int
    handshake_timeout_ms: int
    half_close_timeout_ms: int = 60000
    protection: ProtectionEntry = ProtectionEntry()
    trusted_proxies: tuple[str, ...] = ()
    mode: str = "tls"
    redirect_port: int = 443


class RouteEntry(Struct, frozen=True, array_like=True):
    """A route. `sni` is normalised: lower-case A-labels, ``*.suffix``, or "" for the default.

    `policies` has one index into :attr:`Snapshot.policies` per listener, in the order of
    :attr:`Snapshot.listeners`; -1 where the route has no certificate on that listener, or the listener takes plain
    HTTP. It is empty for passthrough.
    `rate` is in connections per second, 0.0 for no limit. `forward_fingerprint` is empty unless the header carries it.
    With `suspend_timeout_ms` above 0 the route is suspended: it may then have no upstreams, and it has policies for
    passthrough too, since a connection may be terminated after all.
    `number` and `upstream_numbers` (one per upstream) are those of :mod:`symphony.config.numbering`, -1 for none.
    `listeners` has the ids of those that have the route, in the snapshot's order; none: all of them have it.
    """

    sni: str
    upstreams: tuple[Upstream, ...]
    terminate_tls: bool
    policies: tuple[int, ...]
    rate: float
    burst: float
    source_address_header: SourceAddressHeader = "none"
    forward_fingerprint: tuple[Fingerprint, ...] = ()
    suspend_timeout_ms: int = 0
    balance: Balance = "least_connections"
    number: int = -1
    upstream_numbers: tuple[int, ...] = ()
    listeners: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What tells it from all other routes: its `sni`, with ``@listener,listener`` where not all have it."""
        return route_name(self.sni, self.listeners) if self.listeners else self.sni


def route_name(sni: str, listeners: Iterable[str]) -> str:
    """The name of a route (:attr:`RouteEntry.name`). No server name has an ``@``."""
    where = ",".join(listeners)
    return f"{sni}@{where}" if where else sni


class Numbering(Struct, frozen=True, array_like=True):
    """Which numbers are to be given next: `following` and all above it were never used; `freed`, longest free first."""

    following: int = 0
    freed: tuple[int, ...] = ()


class UpstreamOverride(Struct, frozen=True, array_like=True):
    """What an operator says of an upstream (by its label) of one route; never "ready", which needs no saying."""

    route: str
    upstream: str
    mode: UpstreamMode


class Snapshot(Struct, frozen=True, array_like=True):
    """A complete, checked configuration. `version` grows by one with every change.

    `networks` holds lists of networks by digest, as :meth:`symphony.protection.cidr.CidrSet.to_bytes` packs them.
    `overrides` come from no file: they stay until they are taken back, or what they are about is gone.
    """

    version: int
    read_buffer_size: int
    drain_timeout_ms: int
    listeners: tuple[ListenerEntry, ...]
    routes: tuple[RouteEntry, ...]
    policies: tuple[TlsPolicy, ...]
    identities: dict[str, Identity]
    client_authorities: dict[str, ClientAuthority]
    networks: dict[str, bytes] = {}
    upstream_numbering: Numbering = Numbering()
    route_numbering: Numbering = Numbering()
    access_log_rate: float = 0.0
    overrides: tuple[UpstreamOverride, ...] = ()


def listed_networks(listeners: Iterable[ListenerEntry]) -> set[str]:
    """The digests of all lists of networks that `listeners` name."""
    found = {
        digest
        for listener in listeners
        for digest in (
            listener.protection.allowlist,
            listener.protection.blocklist,
            listener.protection.asn_networks,
        )
    }
    return found - {""}
