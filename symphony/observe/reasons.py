"""Why a connection ended early: the closed set of reasons that are counted and logged.

The order is the order of the slots in shared memory (:mod:`symphony.observe.counters`); every process of a tree runs
the same code, so new reasons may stand anywhere.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A reason, by the name that logs, metrics and ``symphony status`` show."""

    # On a listener behind a load balancer
    UNTRUSTED_PROXY = "untrusted_proxy"  # not one of those that may say who the client is
    MALFORMED_PROXY_HEADER = "malformed_proxy_header"
    PROXY_HEADER_TIMEOUT = (
        "proxy_header_timeout"  # none, or not a whole one, within the handshake's time limit
    )
    # Before the ClientHello is whole
    CLIENT_LEFT = "client_left"  # closed without sending a byte, as port scanners and TCP health checks do
    CLIENT_SILENT = "client_silent"  # sent nothing within the handshake's time limit
    TRUNCATED_CLIENT_HELLO = "truncated_client_hello"  # closed in the middle of it
    CLIENT_HELLO_TIMEOUT = "client_hello_timeout"  # stopped in the middle of it
    NOT_TLS = "not_tls"
    MALFORMED_CLIENT_HELLO = "malformed_client_hello"
    OVERSIZED_CLIENT_HELLO = "oversized_client_hello"
    # Admission and routing
    MAX_CONNECTIONS = "max_connections"
    DESCRIPTOR_LIMIT = "descriptor_limit"
    CIDR_BLOCKED = "cidr_blocked"
    ASN_BLOCKED = "asn_blocked"
    PENALTY_BOXED = "penalty_boxed"
    JA3_BLOCKED = "ja3_blocked"
    JA4_BLOCKED = "ja4_blocked"
    INCOMPLETE_HANDSHAKE = (
        "incomplete_handshake"  # no whole ClientHello where fingerprints are to be compared
    )
    NO_SNI = "no_sni"
    RATE_LIMITED = "rate_limited"
    SUSTAINED_LIMITED = "sustained_limited"
    TOO_MANY_CONNECTIONS = "too_many_connections"  # from one source
    TABLE_FULL = "table_full"  # no room to count another source
    UNKNOWN_SNI = "unknown_sni"
    NO_CERTIFICATE = "no_certificate"
    # While held
    REJECTED = "rejected"  # whoever was asked said no
    SUSPEND_TIMEOUT = "suspend_timeout"  # nobody said anything in time
    LEFT_WHILE_HELD = "left_while_held"
    STOPPED_WHILE_HELD = "stopped_while_held"
    # Handshake
    HANDSHAKE_FAILED = "handshake_failed"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    HANDSHAKE_ABANDONED = "handshake_abandoned"
    CLIENT_CERTIFICATE_REFUSED = "client_certificate_refused"
    # HTTP requests, on a plain listener or where the client is to be named in them
    HTTP_ABANDONED = "http_abandoned"  # closed in the middle of a request
    HTTP_TIMEOUT = "http_timeout"  # a request did not become whole in time
    HTTP_MALFORMED = "http_malformed"
    HTTP_AMBIGUOUS = (
        "http_ambiguous"  # could be taken to end in two places, which is how requests are smuggled
    )
    HTTP_AHEAD = "http_ahead"  # more sent ahead of the answers than is kept
    HTTP_HEAD_TOO_LONG = "http_head_too_long"
    HTTP_VERSION = "http_version"  # neither HTTP/1.0 nor HTTP/1.1
    HTTP_NO_HOST = "http_no_host"
    HTTP_BAD_HOST = "http_bad_host"  # neither a name nor an address
    TLS_ON_PLAIN_PORT = "tls_on_plain_port"
    CHALLENGE_REFUSED = "challenge_refused"  # another method than GET and HEAD, or a body
    UNKNOWN_HOST = "unknown_host"  # a challenge for a name that has no route, or one without upstreams
    # Upstream
    UPSTREAM_REFUSED = "upstream_refused"
    UPSTREAM_MISSING = "upstream_missing"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_BUSY = "upstream_busy"
    UPSTREAM_UNRESOLVED = "upstream_unresolved"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_BAD_ANSWER = "upstream_bad_answer"  # to a challenge: not HTTP, cut short, or none at all
    # While bytes flow
    CLIENT_RESET = "client_reset"
    UPSTREAM_RESET = "upstream_reset"
    TLS_ERROR = "tls_error"
    IDLE_TIMEOUT = "idle_timeout"
    HALF_CLOSE_TIMEOUT = "half_close_timeout"  # one side had ended, and the other one fell silent
    DRAIN_TIMEOUT = "drain_timeout"
    INTERNAL_ERROR = "internal_error"


BLOCKED = (
    Reason.MAX_CONNECTIONS,
    Reason.CIDR_BLOCKED,
    Reason.ASN_BLOCKED,
    Reason.PENALTY_BOXED,
    Reason.JA3_BLOCKED,
    Reason.JA4_BLOCKED,
    Reason.INCOMPLETE_HANDSHAKE,
    Reason.NO_SNI,
    Reason.RATE_LIMITED,
    Reason.SUSTAINED_LIMITED,
    Reason.TOO_MANY_CONNECTIONS,
    Reason.TABLE_FULL,
)
"""The reasons for which admission refuses. They are also counted by listener, and told as events."""
