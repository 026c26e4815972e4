"""Reads the certificates, keys and client authorities that a configuration names, each once.

Ten thousand routes on one certificate cost one read, one check and ten thousand look-ups: tables are remembered as
they are written, files by their path, and checks by the digest of what was read.
"""

from __future__ import annotations

import os
import stat
from datetime import datetime

from msgspec import Struct

from symphony.config.model import Certificate, MutualTls
from symphony.config.problem import Problem, Severity, SharedWarnings
from symphony.config.snapshot import ClientAuthority, Identity
from symphony.config.source import UnreadableFile, read_file_and_status
from symphony.config.wording import join_place, quoted
from symphony.tls.identity import Finding, Part, examine_authorities, examine_identity
from symphony.watch.files import Sightings

PEM_LIMIT = 4 << 20


class _Answer(Struct, frozen=True):
    """What became of one table: the digest ("" if it cannot be used), and findings by the key they belong to."""

    digest: str
    errors: tuple[tuple[str, str], ...]
    warnings: tuple[tuple[str, str], ...]


class _Part(Struct, frozen=True):
    """One PEM text of a table: under which key it stands, how findings call it, what it holds, and a file's status."""

    key: str
    name: str
    content: bytes
    status: os.stat_result | None = None

    def __repr__(self) -> str:
        """Print no key."""
        return f"_Part({self.key})"


class Credentials:
    """Everything read for one load of a configuration.

    `identities` and `client_authorities` hold, by digest, what was found usable. `directory` is what file names
    are relative to; certificates are valid or not at `now`; warnings go to `warnings`, errors to the caller's list,
    and what was read to `sightings`.
    """

    def __init__(self, directory: str, now: datetime, warnings: SharedWarnings, sightings: Sightings) -> None:
        self.identities: dict[str, Identity] = {}
        self.client_authorities: dict[str, ClientAuthority] = {}
        self._directory = directory
        self._now = now
        self._answers: dict[Certificate | MutualTls, _Answer] = {}
        self._files: dict[str, tuple[bytes, os.stat_result] | UnreadableFile] = {}
        self._identity_findings: dict[str, tuple[Finding, ...]] = {}
        self._authority_findings: dict[bytes, tuple[Finding, ...]] = {}
        self._warnings = warnings
        self._sightings = sightings

    def identity(self, certificate: Certificate, place: str, problems: list[Problem]) -> str:
        """Return the digest of the identity that `certificate` names, or "" after adding what is wrong."""
        answer = self._answers.get(certificate)
        if answer is None:
            answer = self._answers[certificate] = self._read_identity(certificate)
        return self._tell(answer, place, problems)

    def client_authority(self, mtls: MutualTls, place: str, problems: list[Problem]) -> str:
        """Return the digest of the client authority that `mtls` names, or "" after adding what is wrong."""
        answer = self._answers.get(mtls)
        if answer is None:
            answer = self._answers[mtls] = self._read_authority(mtls)
        return self._tell(answer, place, problems)

    def _tell(self, answer: _Answer, place: str, problems: list[Problem]) -> str:
        for key, text in answer.errors:
            problems.append(Problem(join_place(place, key) if key else place, text))
        for key, text in answer.warnings:
            self._warnings.add(join_place(place, key), text)
        return answer.digest

    def _read_identity(self, certificate: Certificate) -> _Answer:
        errors: list[tuple[str, str]] = []
        warnings: list[tuple[str, str]] = []
        chain = self._part("cert_chain", certificate.cert_chain, certificate.cert_chain_file, errors)
        key = self._part("private_key", certificate.private_key, certificate.private_key_file, errors)
        missing = _missing_half(certificate)
        if missing:
            errors.append(("", missing))
        if errors or chain is None or key is None:
            return _Answer("", tuple(errors), ())
        if key.status is not None and is_exposed(key.status):
            mode = stat.S_IMODE(key.status.st_mode)
            text = f"{key.name} can be read or written by others than its owner (mode {mode:04o}): "
            expected = "expected 0600, or 0640 where root owns the file and only Symphony is of its group"
            warnings.append((key.key, text + expected))
        identity = Identity(chain.content, key.content)
        digest = identity.digest
        findings = self._identity_findings.get(digest)
        if findings is None:
            findings = examine_identity(chain.content, key.content, self._now)
            self._identity_findings[digest] = findings
        _sort_in(findings, {Part.CHAIN: chain, Part.KEY: key}, errors, warnings)
        if errors:
            return _Answer("", tuple(errors), tuple(warnings))
        self.identities.setdefault(digest, identity)
        return _Answer(digest, (), tuple(warnings))

    def _read_authority(self, mtls: MutualTls) -> _Answer:
        errors: list[tuple[str, str]] = []
        warnings: list[tuple[str, str]] = []
        bundle = self._part("client_ca_cert", mtls.client_ca_cert, mtls.client_ca_cert_file, errors)
        if not errors and bundle is None:
            errors.append(
                (
                    "",
                    "names no authority: expected client_ca_cert_file or client_ca_cert "
                    "(leave mtls out where clients need no certificate)",
                )
            )
        if errors or bundle is None:
            return _Answer("", tuple(errors), ())
        findings = self._authority_findings.get(bundle.content)
        if findings is None:
            findings = examine_authorities(bundle.content, self._now)
            self._authority_findings[bundle.content] = findings
        _sort_in(findings, {Part.CHAIN: bundle}, errors, warnings)
        if errors:
            return _Answer("", tuple(errors), tuple(warnings))
        authority = ClientAuthority(bundle.content, mtls.require_client_cert)
        digest = authority.digest
        self.client_authorities.setdefault(digest, authority)
        return _Answer(digest, (), tuple(warnings))

    def _part(
        self, key: str, inline: str | None, file: str | None, errors: list[tuple[str, str]]
    ) -> _Part | None:
        """Get one PEM text; None where the table has none, or after adding to `errors` why it cannot be had."""
        file_key = f"{key}_file"
        if inline is not None and file is not None:
            errors.append((key, f"stands beside {file_key}: expected only one of the two"))
            return None
        if inline is not None:
            return _Part(key, "the text", inline.encode())
        if file is None:
            return None
        if "-----BEGIN" in file:
            errors.append((file_key, f"holds PEM text: expected the name of a file, or the text under {key}"))
            return None
        content = self._read(file)
        if isinstance(content, UnreadableFile):
            errors.append((file_key, str(content)))
            return None
        return _Part(file_key, quoted(file), *content)

    def _read(self, file: str) -> tuple[bytes, os.stat_result] | UnreadableFile:
        path = os.path.join(self._directory, file)
        result = self._files.get(path)
        if result is None:
            try:
                result = read_file_and_status(path, PEM_LIMIT, self._sightings)
            except UnreadableFile as error:
                result = error
            self._files[path] = result
        return result


def is_exposed(status: os.stat_result) -> bool:
    """Whether a key's file may be read by more than who needs it: its owner, or a group that root lets read it.

    That is PostgreSQL's rule for its server's key. A process that is not root's can be given a key that it cannot
    replace only by way of its group.
    """
    return bool(status.st_mode & (0o037 if status.st_uid == 0 else 0o077))


def _missing_half(certificate: Certificate) -> str:
    """Say which half of the pair is not given at all; "" if both are."""
    chain = certificate.cert_chain is not None or certificate.cert_chain_file is not None
    key = certificate.private_key is not None or certificate.private_key_file is not None
    if chain and key:
        return ""
    if chain:
        return "has a certificate chain but no key: expected private_key_file or private_key too"
    if key:
        return "has a key but no certificate chain: expected cert_chain_file or cert_chain too"
    return "is empty: expected cert_chain_file and private_key_file, or cert_chain and private_key"


def _sort_in(
    findings: tuple[Finding, ...],
    parts: dict[Part, _Part],
    errors: list[tuple[str, str]],
    warnings: list[tuple[str, str]],
) -> None:
    """Add each finding to `errors` or `warnings`, under the key of the text that it is about."""
    for finding in findings:
        part = parts[finding.part]
        into = errors if finding.severity is Severity.ERROR else warnings
        into.append((part.key, f"{part.name} {finding.text}"))
