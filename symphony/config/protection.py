"""What is wrong with a listener's protection, and what acceptors need of it."""

from __future__ import annotations

from collections.abc import Callable

from symphony.config.model import Protection
from symphony.config.networks import NetworkLists
from symphony.config.problem import Problem
from symphony.config.snapshot import ProtectionEntry
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
    )


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
