"""What is wrong with a listener's protection, and what acceptors need of it."""

from __future__ import annotations

import math
from collections.abc import Callable

from symphony.config.model import Protection
from symphony.config.networks import NetworkLists
from symphony.config.problem import Problem
from symphony.config.snapshot import ProtectionEntry
from symphony.protection.penalty import SourceLimits
from symphony.tls.fingerprint import FingerprintError, check_ja3, check_ja4


def resolve_protection(
    protection: Protection, place: str, networks: NetworkLists, problems: list[Problem]
) -> ProtectionEntry:
    """Return a listener's protection with every list read, after adding what is wrong with it."""
    return ProtectionEntry(
        allowlist=networks.read(protection.allowlist, f"{place}.allowlist", problems),
        blocklist=networks.read(protection.blocklist, f"{place}.blocklist", problems),
        ja3_blocklist=_fingerprints(protection.ja3_blocklist, check_ja3, f"{place}.ja3_blocklist", problems),
        ja4_blocklist=_fingerprints(protection.ja4_blocklist, check_ja4, f"{place}.ja4_blocklist", problems),
        require_sni=protection.require_sni,
        limits=_limits(protection, place, problems),
        ipv6_prefix=protection.ipv6_prefix,
        asn_blocklist=tuple(sorted(set(protection.asn_blocklist))),
        asn_networks=networks.read_systems(
            protection.asn_blocklist, protection.asn_database_path, place, problems
        ),
    )


def _limits(protection: Protection, place: str, problems: list[Problem]) -> SourceLimits:
    second = minute = (0.0, 0.0)
    if protection.rate_limit is not None:
        rate = protection.rate_limit.connections_per_second
        second = _bucket(
            rate, protection.rate_limit.burst, f"{place}.rate_limit", "connections_per_second", problems
        )
    if protection.sustained is not None:
        rate = protection.sustained.connections_per_minute
        minute = _bucket(
            rate, protection.sustained.burst, f"{place}.sustained", "connections_per_minute", problems
        )
    penalty_s = 0.0
    if protection.penalty_box is not None:
        penalty_s = protection.penalty_box.duration_ms / 1000
        if protection.rate_limit is None and protection.sustained is None:
            text = "means nothing without a rate to exceed: expected rate_limit or sustained too"
            problems.append(Problem(f"{place}.penalty_box", text))
    return SourceLimits(*second, *minute, penalty_s, protection.max_concurrent_per_ip)


def _bucket(
    rate: float, burst: float | None, place: str, key: str, problems: list[Problem]
) -> tuple[float, float]:
    """Return a bucket's rate, in the unit of its key, and what it holds."""
    size = max(1.0, rate) if burst is None else burst
    for name, value in ((key, rate), ("burst", size)):
        if not math.isfinite(value):
            problems.append(Problem(f"{place}.{name}", f"expected a finite number, found {value}"))
            return 0.0, 0.0
    return rate, size


def _fingerprints(
    entries: tuple[str, ...], check: Callable[[str], str], place: str, problems: list[Problem]
) -> tuple[str, ...]:
    checked: set[str] = set()
    for index, entry in enumerate(entries):
        try:
            checked.add(check(entry))
        except FingerprintError as error:
            problems.append(Problem(f"{place}[{index}]", str(error)))
    return tuple(sorted(checked))
