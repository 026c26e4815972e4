"""Reads the lists of networks that a configuration names, each file and each distinct list once."""

from __future__ import annotations

import hashlib
import os

from symphony.config.autonomous_systems import DatabaseError, networks_of
from symphony.config.problem import Problem
from symphony.config.source import UnreadableFile, read_file
from symphony.config.wording import quoted
from symphony.protection.cidr import CidrError, CidrSet, Network, parse_list, parse_network
from symphony.watch.files import Sightings

FILE_LIMIT = 64 << 20
FILE_MARK = "@"


class NetworkLists:
    """Everything of the kind for one load of a configuration.

    `packed` holds the lists by digest. `directory` is what file names are relative to; what was read is told to
    `sightings`.
    """

    def __init__(self, directory: str, sightings: Sightings) -> None:
        self.packed: dict[str, bytes] = {}
        self._sightings = sightings
        self._files: dict[str, tuple[list[Network], list[str]]] = {}
        self._directory = directory
        self._digests: dict[tuple[str, ...], str] = {}

    def read(self, entries: tuple[str, ...], place: str, problems: list[Problem]) -> str:
        """Return the digest of a list, "" when nothing is in it or after adding what is wrong."""
        known = self._digests.get(entries)
        if known is not None:
            return known
        before = len(problems)
        networks: list[Network] = []
        for index, entry in enumerate(entries):
            found, wrong = self._file(entry[1:]) if entry.startswith(FILE_MARK) else _single(entry)
            networks += found
            problems.extend(Problem(f"{place}[{index}]", text) for text in wrong)
        if len(problems) > before:
            return ""
        digest = self._digests[entries] = self._pack(networks)
        return digest

    def read_systems(
        self, numbers: tuple[int, ...], database: str | None, place: str, problems: list[Problem]
    ) -> str:
        """Return the digest of the networks of some autonomous systems, "" as above. `place` is their table's."""
        if not numbers:
            return ""
        if not database:
            text = "means nothing without asn_database_path: expected the name of a database such as GeoLite2-ASN.mmdb"
            problems.append(Problem(f"{place}.asn_blocklist", text))
            return ""
        path = os.path.join(self._directory, database)
        try:
            networks = networks_of(path, read_file(path, FILE_LIMIT, self._sightings), frozenset(numbers))
        except UnreadableFile as error:
            problems.append(Problem(f"{place}.asn_database_path", str(error)))
            return ""
        except DatabaseError as error:
            problems.append(Problem(f"{place}.asn_database_path", f"{quoted(database)} {error}"))
            return ""
        return self._pack(list(networks))

    def _pack(self, networks: list[Network]) -> str:
        listed = CidrSet(networks)
        if not listed:
            return ""
        packed = listed.to_bytes()
        digest = hashlib.sha256(packed).hexdigest()
        self.packed[digest] = packed
        return digest

    def _file(self, name: str) -> tuple[list[Network], list[str]]:
        if not name:
            return [], ['"@" names no file: expected "@" and the name of a file']
        path = os.path.join(self._directory, name)
        known = self._files.get(path)
        if known is None:
            known = self._files[path] = self._read_file(path, quoted(name))
        return known

    def _read_file(self, path: str, shown: str) -> tuple[list[Network], list[str]]:
        try:
            text = read_file(path, FILE_LIMIT, self._sightings).decode("utf-8")
        except UnreadableFile as error:
            return [], [str(error)]
        except UnicodeDecodeError:
            return [], [f"{shown} is not UTF-8"]
        networks, wrong = parse_list(text)
        return networks, [f"{shown} {line}" for line in wrong]


def _single(entry: str) -> tuple[list[Network], list[str]]:
    try:
        return [parse_network(entry)], []
    except CidrError as error:
        return [], [str(error)]
