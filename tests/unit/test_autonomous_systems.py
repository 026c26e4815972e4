"""Networks of autonomous systems from databases in MaxMind's format."""

from __future__ import annotations

from pathlib import Path

import pytest

from symphony.config.autonomous_systems import DatabaseError, networks_of
from symphony.config.resolve import load
from symphony.protection.cidr import CidrSet, pack_address, parse_network
from tests.support.mmdb import write_database

RECORDS = {
    "192.0.2.0/24": {"autonomous_system_number": 64496, "autonomous_system_organization": "One"},
    "198.51.100.0/25": {"autonomous_system_number": 64497},
    "203.0.113.7/32": {"autonomous_system_number": 64496},
    "2001:db8::/32": {"autonomous_system_number": 64496},
    "2001:db9::/33": {"autonomous_system_number": 4_200_000_000},
}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return write_database(tmp_path / "asn.mmdb", RECORDS)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({64496}, ["192.0.2.0/24", "203.0.113.7/32", "2001:db8::/32"]),
        ({64497, 4_200_000_000}, ["198.51.100.0/25", "2001:db9::/33"]),
        ({1}, []),
    ],
)
def test_networks_of_both_versions_are_found(database: Path, numbers: set[int], expected: list[str]) -> None:
    found = networks_of(str(database), database.read_bytes(), frozenset(numbers))
    assert set(found) == set(map(parse_network, expected))


@pytest.mark.parametrize("content", [b"", b"not a database", b"\xab\xcd\xefMaxMind.com\xff\xff"])
def test_what_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "asn.mmdb"
    path.write_bytes(content)
    with pytest.raises(DatabaseError, match="is not a MaxMind database"):
        networks_of(str(path), content, frozenset({1}))


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    path = write_database(tmp_path / "city.mmdb", {"192.0.2.0/24": {"city": "x"}})
    with pytest.raises(DatabaseError, match="has no autonomous_system_number"):
        networks_of(str(path), path.read_bytes(), frozenset({1}))


def test_every_cut_of_a_database_is_refused_or_read(database: Path, tmp_path: Path) -> None:
    """A half-written file must never harm more than the reload that reads it."""
    whole = database.read_bytes()
    for size in range(0, len(whole), 97):
        path = tmp_path / "cut.mmdb"
        path.write_bytes(whole[:size])
        with pytest.raises(DatabaseError):
            networks_of(str(path), whole[:size], frozenset({64496}))


def configuration(tmp_path: Path, protection: str) -> str:
    path = tmp_path / "symphony.toml"
    path.write_text(
        f"""
[[listeners]]
port = 0
[listeners.protection]
{protection}
[[routes]]
sni = "a.test"
terminate_tls = false
upstreams = [{{ kind = "uds", path = "/run/a.sock" }}]
"""
    )
    return str(path)


def test_a_configuration_names_systems(database: Path, tmp_path: Path) -> None:
    loaded = load(configuration(tmp_path, 'asn_blocklist = [64496, 64496]\nasn_database_path = "asn.mmdb"'))
    assert loaded.snapshot is not None and not loaded.problems
    entry = loaded.snapshot.listeners[0].protection
    assert entry.asn_blocklist == (64496,)
    networks = CidrSet.from_bytes(loaded.snapshot.networks[entry.asn_networks])
    assert networks.contains(pack_address("192.0.2.77")) and networks.contains(pack_address("2001:db8::1"))
    assert not networks.contains(pack_address("198.51.100.1"))
    assert str(database) in loaded.files  # a newer database is served by itself


@pytest.mark.parametrize(
    ("protection", "place", "text"),
    [
        ("asn_blocklist = [1]", "asn_blocklist", "means nothing without asn_database_path"),
        ('asn_blocklist = [1]\nasn_database_path = "gone.mmdb"', "asn_database_path", "does not exist"),
        ('asn_blocklist = [1]\nasn_database_path = "symphony.toml"', "asn_database_path", "is not a MaxMind"),
        ("asn_blocklist = [0]", "asn_blocklist[0]", "0"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, protection: str, place: str, text: str) -> None:
    (problem,) = load(configuration(tmp_path, protection)).problems
    assert problem.place == f"listeners[0].protection.{place}"
    assert text in problem.text
