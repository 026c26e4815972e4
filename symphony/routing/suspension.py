"""What a suspended route says about the connections that it holds."""

from __future__ import annotations

from typing import NamedTuple

from symphony.config.snapshot import ClientAuthority, Identity, RouteEntry, Snapshot, TlsPolicy


class SuspendedTls(NamedTuple):
    """A suspended route's TLS on one listener, unless a resolution says otherwise.

    `identity` is None where neither route nor listener has a certificate.
    """

    policy: TlsPolicy
    identity: Identity | None
    authority: ClientAuthority | None

    def __repr__(self) -> str:
        """Print no key."""
        return f"SuspendedTls({self.policy})"


class Suspension:
    """How long connections are held, and their TLS by listener: None where the route is not served with TLS."""

    __slots__ = ("timeout_ms", "tls")

    def __init__(self, timeout_ms: int, tls: tuple[SuspendedTls | None, ...]) -> None:
        self.timeout_ms = timeout_ms
        self.tls = tls


def suspension_of(entry: RouteEntry, snapshot: Snapshot) -> Suspension | None:
    """What holds for `entry`; None for a route that is not suspended."""
    if not entry.suspend_timeout_ms:
        return None

    def tls(at: int) -> SuspendedTls | None:
        if at < 0:
            return None
        policy = snapshot.policies[at]
        return SuspendedTls(
            policy,
            snapshot.identities.get(policy.identity),
            snapshot.client_authorities.get(policy.client_authority),
        )

    return Suspension(entry.suspend_timeout_ms, tuple(tls(at) for at in entry.policies))
