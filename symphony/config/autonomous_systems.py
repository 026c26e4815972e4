"""The networks of autonomous systems, from a database in MaxMind's format such as GeoLite2-ASN.

They become a list of networks like any other when the configuration is read, so that a connection costs no look-up in
the database, and the processes that face clients never open it. To go through a whole database takes seconds, and so
what was found is remembered for as long as its file stays as it is.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network

import maxminddb

from symphony.protection.cidr import Network

NUMBER = "autonomous_system_number"
"""The key of a record that matters, in MaxMind's databases and in those made after them."""

_REMEMBERED = 8


class DatabaseError(Exception):
    """The file is no such database; the text says why."""


def networks_of(path: str, content: bytes, numbers: frozenset[int]) -> tuple[Network, ...]:
    """Return the networks of the autonomous systems with these `numbers`, of the database at `path`.

    `content` is what was read there. Raises DatabaseError.
    """
    return _networks_of(path, hashlib.sha256(content).digest(), numbers)


@lru_cache(_REMEMBERED)
def _networks_of(path: str, _digest: bytes, numbers: frozenset[int]) -> tuple[Network, ...]:
    found: list[Network] = []
    any_number = False
    try:
        with maxminddb.open_database(path) as database:
            for network, record in database:
                number = record.get(NUMBER) if isinstance(record, dict) else None
                if number is not None:
                    any_number = True
                    if number in numbers:
                        found.append(_network(network))
    except (maxminddb.InvalidDatabaseError, OSError, ValueError) as error:
        raise DatabaseError(f"is not a MaxMind database: {error}") from error
    if not any_number:
        raise DatabaseError(f"has no {NUMBER}: expected a database of autonomous systems (GeoLite2-ASN)")
    return tuple(found)


def _network(network: IPv4Network | IPv6Network) -> Network:
    return Network(network.version, int(network.network_address), int(network.broadcast_address))
