"""Which certificates a snapshot serves, and where: public facts only."""

from __future__ import annotations

from msgspec import Struct

from symphony.config.snapshot import Snapshot
from symphony.tls.certificate_facts import CertificateFacts, read_facts


class ServedCertificate(Struct, frozen=True, array_like=True):
    """A certificate and the names of the routes that show it, "" for the default route; in the snapshot's order."""

    facts: CertificateFacts
    routes: tuple[str, ...]


def served_certificates(snapshot: Snapshot) -> tuple[ServedCertificate, ...]:
    """Return every certificate of `snapshot`, the one that expires first at the head."""
    routes: dict[str, dict[str, None]] = {}
    for route in snapshot.routes:
        for index in route.policies:
            if index >= 0:
                routes.setdefault(snapshot.policies[index].identity, {})[route.name] = None
    found = (
        ServedCertificate(read_facts(snapshot.identities[digest].chain_pem), tuple(names))
        for digest, names in routes.items()
    )
    return tuple(sorted(found, key=lambda each: (each.facts.not_after, each.facts.names)))
