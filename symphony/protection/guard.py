"""What one listener checks of a connection without asking anybody: its address, its fingerprints, its server name."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from symphony.config.snapshot import ProtectionEntry
from symphony.observe.reasons import Reason
from symphony.protection.cidr import CidrSet
from symphony.tls.client_hello import ClientHello
from symphony.tls.fingerprint import Fingerprints, is_listed


class Standing(Enum):
    """What a listener's lists of networks say of an address; the allowlist has the last word."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    SYSTEM_REFUSED = "system_refused"
    UNLISTED = "unlisted"


_MOST_REMEMBERED = 4096


class Guard:
    """A listener's protection as acceptors apply it. It does not change: a new configuration makes a new one.

    `lists` is whether an address may have a standing, which is remembered for those that come again.
    `compares` is whether fingerprints are listed, `reads` whether the ClientHello has a say at all. `limited` is
    whether the limiter has to be asked, about a key of `ipv6_prefix` bits, and `boxes` whether it may answer that the
    source is in the penalty box.
    """

    __slots__ = (
        "_allowed",
        "_ja3",
        "_ja4",
        "_refused",
        "_remembered",
        "_require_sni",
        "_systems",
        "boxes",
        "compares",
        "ipv6_prefix",
        "limited",
        "limits",
        "lists",
        "reads",
    )

    def __init__(self, entry: ProtectionEntry, networks: Mapping[str, CidrSet]) -> None:
        """`networks` has a set for each digest that `entry` names."""
        self._allowed = networks[entry.allowlist] if entry.allowlist else None
        self._refused = networks[entry.blocklist] if entry.blocklist else None
        self._systems = networks[entry.asn_networks] if entry.asn_networks else None
        self.lists = any(each is not None for each in (self._allowed, self._refused, self._systems))
        self._remembered: dict[bytes, Standing] = {}
        self._ja3 = frozenset(entry.ja3_blocklist)
        self._ja4 = frozenset(entry.ja4_blocklist)
        self._require_sni = entry.require_sni
        self.compares = bool(self._ja3 or self._ja4)
        self.reads = self.compares or self._require_sni
        self.limits = entry.limits
        self.limited = entry.limits.metered or entry.limits.max_concurrent > 0
        self.boxes = entry.limits.penalty_s > 0.0
        self.ipv6_prefix = entry.ipv6_prefix

    def standing(self, address: bytes) -> Standing:
        """Look a packed address up."""
        found = self._remembered.get(address)
        if found is None:
            found = self._look_up(address)
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[address] = found
        return found

    def _look_up(self, address: bytes) -> Standing:
        if self._allowed is not None and self._allowed.contains(address):
            return Standing.ALLOWED
        if self._refused is not None and self._refused.contains(address):
            return Standing.REFUSED
        if self._systems is not None and self._systems.contains(address):
            return Standing.SYSTEM_REFUSED
        return Standing.UNLISTED

    def judge(self, hello: ClientHello, fingerprints: Fingerprints) -> Reason | None:
        """Return why a ClientHello is refused. Raises MalformedClientHello when it has no fingerprint to compare."""
        if self._ja3 and fingerprints.ja3 in self._ja3:
            return Reason.JA3_BLOCKED
        if self._ja4 and is_listed(fingerprints.ja4, self._ja4):
            return Reason.JA4_BLOCKED
        if self._require_sni and hello.server_name is None:
            return Reason.NO_SNI
        return None


def make_guard(entry: ProtectionEntry, networks: Mapping[str, CidrSet]) -> Guard | None:
    """Return a listener's guard, None where it protects nothing."""
    return None if entry == _NOTHING else Guard(entry, networks)


_NOTHING = ProtectionEntry()
