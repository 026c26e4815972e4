"""The configuration as a user writes it: one frozen type per table, one field per key.

These types are the single description of the configuration. The reader checks files against them, the
reference documentation is generated from them, and every default stands here and nowhere else. They hold what
the file says; files that it names are opened by :mod:`symphony.config.resolve`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

_DAY_MS = 86_400_000
SourceAddressHeader = Literal["none", "proxy_protocol", "proxy_protocol_v2", "x_forwarded_for"]
Fingerprint = Literal["ja3", "ja4"]
Milliseconds = Annotated[int, Meta(ge=0, le=_DAY_MS)]
UpstreamMode = Literal["ready", "drain", "down"]
"""What an operator says of an upstream: use it as it fares, give it no new connections, or take it for unhealthy."""
Balance = Literal["least_connections", "round_robin", "random", "ip_hash"]


class Certificate(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A certificate chain (leaf first) with its private key, each inline as PEM or as a file."""

    cert_chain: Annotated[str | None, Meta(description="The chain as inline PEM, leaf first.")] = None
    private_key: Annotated[str | None, Meta(description="The private key as inline PEM.")] = None
    cert_chain_file: Annotated[
        str | None, Meta(description="A file with the chain; relative to the configuration file.")
    ] = None
    private_key_file: Annotated[
        str | None, Meta(description="A file with the private key; relative to the configuration file.")
    ] = None

    def __repr__(self) -> str:
        """Say where the pair comes from, and never print a key."""
        return f"Certificate({self.cert_chain_file or 'inline'})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Replace Struct's own, which would put the key into a rich traceback."""
        return [("source", self.cert_chain_file or "inline")]


class MutualTls(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which client certificates are accepted, and whether one is required."""

    client_ca_cert: Annotated[str | None, Meta(description="The accepted authorities as inline PEM.")] = None
    client_ca_cert_file: Annotated[str | None, Meta(description="A file with the accepted authorities.")] = (
        None
    )
    require_client_cert: Annotated[
        bool, Meta(description="Refuse a client without a certificate (false: only check one that is sent).")
    ] = True


class HealthCheck(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Connections that are made only to see whether an upstream takes them."""

    interval_ms: Annotated[
        int, Meta(ge=100, le=_DAY_MS, description="From the end of one check to the next.")
    ] = 5000
    timeout_ms: Annotated[
        int, Meta(ge=1, le=_DAY_MS, description="A check that takes longer has failed.")
    ] = 2000
    rise: Annotated[int, Meta(ge=1, le=100, description="Good checks in a row that bring it back.")] = 2
    fall: Annotated[int, Meta(ge=1, le=100, description="Failed checks in a row that put it out.")] = 3
    tls: Annotated[bool, Meta(description="A check includes a TLS handshake; any certificate will do.")] = (
        False
    )


class _Upstream(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What all kinds of upstreams have."""

    connect_timeout_ms: Annotated[int, Meta(ge=1, le=_DAY_MS)] = 5000
    weight: Annotated[
        int, Meta(ge=1, le=1000, description="Its share of the connections, beside the others'.")
    ] = 1
    max_fails: Annotated[
        int, Meta(ge=0, le=1000, description="Failed connections that put it out for a while; 0 = never.")
    ] = 3
    fail_timeout_ms: Annotated[
        int, Meta(ge=100, le=_DAY_MS, description="Within which they count, and for how long it is out.")
    ] = 10000
    ip_affinity: Annotated[
        bool,
        Meta(description="A client's address stays with its upstream; taken from the first entry of a list."),
    ] = False
    ip_affinity_ttl_ms: Annotated[
        int, Meta(ge=1000, le=_DAY_MS, description="How long that is remembered without a connection.")
    ] = 300_000
    health_check: Annotated[
        HealthCheck | None, Meta(description="Look by itself whether it takes connections.")
    ] = None
    protocol: Annotated[
        Literal["http/1.1", "h2"],
        Meta(description="`h2`: the clients that chose HTTP/2 by ALPN go here, and all others elsewhere."),
    ] = "http/1.1"


class TcpUpstream(
    _Upstream,
    kw_only=True,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="kind",
    tag="tcp",
):
    """A service on a TCP port; `host` is an IPv4 or IPv6 address or a name."""

    host: str
    port: Annotated[int, Meta(ge=1, le=65535)]

    @property
    def label(self) -> str:
        """The upstream's name in logs and metrics, such as ``tcp://127.0.0.1:8080``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


class UdsUpstream(
    _Upstream,
    kw_only=True,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="kind",
    tag="uds",
):
    """A service on a Unix stream socket; `pid` and `tid` name the thread whose CPU load counts."""

    path: str
    pid: Annotated[int, Meta(ge=1)] | None = None
    tid: Annotated[int, Meta(ge=1)] | None = None

    @property
    def label(self) -> str:
        """The upstream's name in logs and metrics, such as ``unix:/run/app.sock``."""
        return f"unix:{self.path}"


Upstream = TcpUpstream | UdsUpstream


class RateLimit(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """New connections a second from one source address."""

    connections_per_second: Annotated[float, Meta(gt=0)]
    burst: Annotated[
        Annotated[float, Meta(ge=1)] | None,
        Meta(description="Connections let in at once; default: one second's worth."),
    ] = None


class SustainedLimit(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """New connections a minute from one source address."""

    connections_per_minute: Annotated[float, Meta(gt=0)]
    burst: Annotated[
        Annotated[float, Meta(ge=1)] | None,
        Meta(description="Connections let in at once; default: one minute's worth."),
    ] = None


class PenaltyBox(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a source address goes that exceeds a rate."""

    duration_ms: Annotated[
        int, Meta(ge=1, le=_DAY_MS, description="How long it is refused after it last exceeded a rate.")
    ] = 600_000


class Protection(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a listener does against clients that mean harm or do not behave."""

    tls_handshake_timeout_ms: Annotated[
        int, Meta(ge=1, le=_DAY_MS, description="From accept to the end of the TLS handshake.")
    ] = 10000
    allowlist: Annotated[
        tuple[str, ...], Meta(description="Networks that skip every other check; `@file` reads lines.")
    ] = ()
    blocklist: Annotated[
        tuple[str, ...], Meta(description="Networks that are refused; `@file` reads lines.")
    ] = ()
    asn_blocklist: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=4_294_967_295)], ...],
        Meta(description="Autonomous systems, by number, whose networks are refused."),
    ] = ()
    asn_database_path: Annotated[
        str | None,
        Meta(
            description="Where their networks are: a database in MaxMind's format, such as GeoLite2-ASN.mmdb."
        ),
    ] = None
    ja3_blocklist: Annotated[tuple[str, ...], Meta(description="JA3 digests that are refused.")] = ()
    ja4_blocklist: Annotated[tuple[str, ...], Meta(description="JA4 fingerprints that are refused.")] = ()
    require_sni: Annotated[bool, Meta(description="Refuse clients that name no server.")] = False
    rate_limit: Annotated[
        RateLimit | None, Meta(description="For each source address, over all acceptors.")
    ] = None
    sustained: Annotated[
        SustainedLimit | None, Meta(description="A second limit, for each source address.")
    ] = None
    penalty_box: Annotated[
        PenaltyBox | None, Meta(description="Refuse a source that exceeds a rate for a while.")
    ] = None
    max_concurrent_per_ip: Annotated[
        int, Meta(ge=0, description="Connections open at once from one source address; 0 = no limit.")
    ] = 0
    ipv6_prefix: Annotated[
        int, Meta(ge=1, le=128, description="IPv6 addresses that share so many bits are one source.")
    ] = 64


class Listener(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An address that Symphony accepts connections on."""

    host: Annotated[str, Meta(description="Address or name; `::` listens on IPv6.")] = "0.0.0.0"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port; 0 takes any free one.")]
    default_cert: Annotated[Certificate | None, Meta(description="For routes without their own `cert`.")] = (
        None
    )
    mtls: Annotated[MutualTls | None, Meta(description="For routes without their own `mtls`.")] = None
    max_connections: Annotated[int, Meta(ge=0, description="Connections open at once; 0 = no limit.")] = 0
    idle_timeout_ms: Annotated[
        Milliseconds, Meta(description="Close after so long without a byte either way; 0 = never.")
    ] = 60000
    half_close_timeout_ms: Annotated[
        Milliseconds,
        Meta(description="The same once one side has ended its direction, where shorter; 0 = no such limit."),
    ] = 60000
    protection: Protection = Protection()
    accept_proxy_protocol: Annotated[
        bool, Meta(description="Every connection begins with a PROXY header, which says who the client is.")
    ] = False
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(description="The networks that PROXY headers are taken from; all others are refused."),
    ] = ()
    mode: Annotated[
        Literal["tls", "http"],
        Meta(description="`http`: plain HTTP, which is redirected to https, but for ACME challenges."),
    ] = "tls"
    redirect_port: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None,
        Meta(description='With `mode = "http"`: the port that redirects name; default: 443.'),
    ] = None


class Route(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What happens to connections that ask for one server name."""

    sni: Annotated[
        str, Meta(description='A name, `*.suffix` (exactly one more label), or "" for the default route.')
    ]
    listeners: Annotated[
        tuple[str, ...],
        Meta(description="The listeners that have this route, each as `host:port`; all by default."),
    ] = ()
    upstreams: Annotated[
        tuple[Upstream, ...],
        Meta(description="Where connections go; at least one, unless the route is `suspended`."),
    ] = ()
    terminate_tls: Annotated[bool, Meta(description="Decrypt here; false passes the bytes through.")] = True
    cert: Certificate | None = None
    mtls: MutualTls | None = None
    balance: Annotated[
        Balance, Meta(description="How a connection's upstream is chosen among `upstreams`.")
    ] = "least_connections"
    http2: Annotated[bool, Meta(description="Offer `h2`, then `http/1.1`, by ALPN.")] = False
    max_connections_per_second: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="New connections a second, over all acceptors."),
    ] = None
    burst: Annotated[
        Annotated[float, Meta(ge=1)] | None,
        Meta(description="Connections let through at once; default: one second's worth."),
    ] = None
    source_address_header: Annotated[
        SourceAddressHeader,
        Meta(
            description="How the upstream is told who the client is: by a PROXY header of version 1 or 2, or by fields "
            "of every HTTP/1 request."
        ),
    ] = "none"
    forward_fingerprint: Annotated[
        tuple[Fingerprint, ...],
        Meta(description="Fingerprints of the ClientHello that the header carries."),
    ] = ()
    suspended: Annotated[
        bool,
        Meta(description="Hold each connection until somebody says where it goes; the rest are defaults."),
    ] = False
    suspend_timeout_ms: Annotated[
        int, Meta(ge=1, le=_DAY_MS, description="A connection held for so long is reset.")
    ] = 30000


class AccessLog(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One log line for each connection at its end."""

    rate: Annotated[
        float, Meta(ge=0, le=1, description="The part of all connections that is written down.")
    ] = 1.0


class Admin(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Metrics and health over HTTP: on a Unix socket, and on a port where one is named. Anybody there may read."""

    socket_path: Annotated[
        str | None,
        Meta(description="The Unix socket; `admin-http.sock` in the runtime directory by default."),
    ] = None
    host: Annotated[str | None, Meta(description="With `port`: the address, 127.0.0.1 by default.")] = None
    port: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None, Meta(description="Listen on this port, too.")
    ] = None


class Config(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A whole configuration file."""

    workers: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None, Meta(description="Acceptors; default: one per CPU.")
    ] = None
    read_buffer_size: Annotated[
        int, Meta(ge=16384, le=16_777_216, description="Bytes moved at most at one go, per process.")
    ] = 131072
    drain_timeout_ms: Annotated[Milliseconds, Meta(description="How long a stop waits for connections.")] = (
        30000
    )
    watch: Annotated[
        bool, Meta(description="Reload by itself when this file, or one that it names, has changed.")
    ] = True
    user: Annotated[
        str | None,
        Meta(description="Who serves connections, where root starts it; keys are still read by root."),
    ] = None
    group: Annotated[str | None, Meta(description="With `user`: its group, instead of its own.")] = None
    core_dumps: Annotated[
        bool, Meta(description="Allow core dumps and debuggers, for which keys are readable.")
    ] = False
    runtime_dir: Annotated[str | None, Meta(description="Sockets, lock and state; mode 0700.")] = None
    access_log: Annotated[
        AccessLog | None, Meta(description="A log line for each connection; without it, only for failures.")
    ] = None
    admin: Annotated[Admin | None, Meta(description="Metrics and health over HTTP.")] = None
    listeners: tuple[Listener, ...]
    routes: tuple[Route, ...] = ()
