"""JA3 and JA4: which TLS library a client uses, told from its ClientHello.

JA3 (https://github.com/salesforce/ja3) is the MD5 digest of five fields in the client's order. JA4
(https://github.com/FoxIO-LLC/ja4, technical_details/JA4.md; the core fingerprint, in its form for TLS over TCP)
sorts what browsers shuffle, so that one client keeps one fingerprint. Both leave out GREASE values (RFC 8701),
which clients choose at random, wherever they stand.

Both are worked out only when something asks for them. They raise
:class:`~symphony.tls.client_hello.MalformedClientHello` when a field that they need cannot be read: such a hello
has no fingerprint, and lists of fingerprints fail closed on it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from struct import pack

from symphony.config.wording import quoted
from symphony.tls.client_hello import ClientHello, MalformedClientHello

GREASE = frozenset(high << 12 | 0x0A00 | high << 4 | 0x0A for high in range(16))
"""0x0a0a, 0x1a1a, ... 0xfafa."""

_SERVER_NAME = 0
_ALPN = 16
_SUPPORTED_VERSIONS = 43
_NO_VALUES = "000000000000"
_VERSIONS = {
    0x0304: "13",
    0x0303: "12",
    0x0302: "11",
    0x0301: "10",
    0x0300: "s3",
    0x0002: "s2",
    0xFEFF: "d1",
    0xFEFD: "d2",
    0xFEFC: "d3",
}
_ALPHANUMERIC = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_JA3 = re.compile(r"[0-9a-f]{32}")
_JA4 = re.compile(r"t(?:1[0-3]|s[23]|d[123]|00)[di][0-9]{4}[0-9a-z]{2}_[0-9a-f]{12}_[0-9a-f]{12}")


_MOST_REMEMBERED = 1024
_remembered: dict[tuple[object, ...], list[str]] = {}


class FingerprintError(ValueError):
    """A list entry that no fingerprint can equal; the text says what is wrong and what is expected."""


class Fingerprints:
    """Both fingerprints of one ClientHello, each worked out when it is first asked for.

    Clients send the same again and again, but for what fingerprints do not look at. So those that were worked out are
    remembered for a while, in a bounded number.
    """

    __slots__ = ("_hello", "_ja3", "_ja4", "_recalled")

    def __init__(self, hello: ClientHello) -> None:
        self._hello = hello
        self._ja3 = ""
        self._ja4 = ""
        self._recalled: list[str] | None = None

    @property
    def ja3(self) -> str:
        """The JA3 digest. Raises MalformedClientHello."""
        if not self._ja3:
            found = self._recalled or self._recall()
            found[0] = self._ja3 = found[0] or ja3(self._hello)[1]
        return self._ja3

    @property
    def ja4(self) -> str:
        """The JA4 fingerprint. Raises MalformedClientHello."""
        if not self._ja4:
            found = self._recalled or self._recall()
            found[1] = self._ja4 = found[1] or ja4(self._hello)
        return self._ja4

    def _recall(self) -> list[str]:
        """Return what is remembered of such a hello: both fingerprints, "" for one that nobody has asked for."""
        shape = self._hello.shape
        found = _remembered.get(shape)
        if found is None:
            if len(_remembered) >= _MOST_REMEMBERED:
                _remembered.clear()
            found = _remembered[shape] = ["", ""]
        self._recalled = found
        return found

    @property
    def known(self) -> tuple[str, str]:
        """JA3 and JA4 as far as they have been asked for, "" for one that has not."""
        return self._ja3, self._ja4


def told(found: Fingerprints | None, wanted: Collection[str] = ("ja3", "ja4")) -> tuple[str, str]:
    """JA3 and JA4, each empty unless `wanted` names it (``ja3``, ``ja4``), or where a hello has none."""
    if found is None or not wanted:
        return "", ""
    try:
        return found.ja3 if "ja3" in wanted else "", found.ja4 if "ja4" in wanted else ""
    except MalformedClientHello:
        return "", ""


def ja3(hello: ClientHello) -> tuple[str, str]:
    """Return the JA3 string, such as ``771,4865-4866,0-10-11,29-23,0``, and its digest in lower-case hex."""
    formats = "-".join(map(str, hello.point_formats))
    text = (
        f"{hello.legacy_version},{_decimals(hello.cipher_suites)},{_decimals(hello.extension_ids)},"
        f"{_decimals(hello.groups)},{formats}"
    )
    return text, hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def ja4(hello: ClientHello) -> str:
    """Return the JA4 fingerprint, such as ``t13d1516h2_8daaf6152771_e5627efa2ab1``.

    All of it is lower case but the two characters from ALPN, which are as the client sent them.
    """
    kinds = [kind for kind in hello.extension_ids if kind not in GREASE]
    ciphers = [number for number in hello.cipher_suites if number not in GREASE]
    versions = hello.supported_versions if _SUPPORTED_VERSIONS in kinds else (hello.legacy_version,)
    version = max((number for number in versions if number not in GREASE), default=0)
    named = "d" if _SERVER_NAME in kinds else "i"
    start = (
        f"t{_VERSIONS.get(version, '00')}{named}{min(len(ciphers), 99):02}{min(len(kinds), 99):02}"
        f"{_alpn_marks(hello.extension(_ALPN))}"
    )
    ciphers.sort()
    sorted_kinds = sorted(kind for kind in kinds if kind != _SERVER_NAME and kind != _ALPN)
    extensions = _hexadecimals(sorted_kinds)
    algorithms = [number for number in hello.signature_algorithms if number not in GREASE]
    if algorithms:
        extensions += "_" + _hexadecimals(algorithms)
    ciphers_digest = _digest(_hexadecimals(ciphers)) if ciphers else _NO_VALUES
    extensions_digest = _digest(extensions) if sorted_kinds else _NO_VALUES
    return f"{start}_{ciphers_digest}_{extensions_digest}"


def check_ja3(text: str) -> str:
    """Return a JA3 list entry in lower case. Raises FingerprintError when it is no MD5 digest in hex."""
    entry = text.lower()
    if _JA3.fullmatch(entry):
        return entry
    if entry.count(",") == 4:
        raise FingerprintError(
            f"{quoted(text)} is a JA3 string: expected its MD5 digest, 32 hexadecimal digits"
        )
    raise FingerprintError(f"{quoted(text)} is no JA3 digest: expected 32 hexadecimal digits")


def check_ja4(text: str) -> str:
    """Return a JA4 list entry in lower case. Raises FingerprintError when it is no JA4 for TLS over TCP."""
    entry = text.lower()
    if _JA4.fullmatch(entry):
        return entry
    expected = "expected one such as t13d1516h2_8daaf6152771_e5627efa2ab1"
    if _JA4.fullmatch("t" + entry[1:]) and entry[0] in "qd":
        raise FingerprintError(
            f"{quoted(text)} is a JA4 of QUIC or DTLS, which never comes over TCP: {expected}"
        )
    raise FingerprintError(f"{quoted(text)} is no JA4 fingerprint: {expected}")


def is_listed(fingerprint: str, entries: frozenset[str]) -> bool:
    """Whether a fingerprint is among checked list entries, whatever its case."""
    return fingerprint in entries or fingerprint.lower() in entries


def _decimals(numbers: tuple[int, ...]) -> str:
    return "-".join([str(number) for number in numbers if number not in GREASE])


def _hexadecimals(numbers: list[int]) -> str:
    """Four lower-case digits each, with commas between them."""
    return pack(f">{len(numbers)}H", *numbers).hex(",", 2) if numbers else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _alpn_marks(body: bytes | None) -> str:
    """Two characters for the first ALPN name: its first and last, or those of its hex form."""
    if body is None or len(body) < 3 or not body[2]:
        return "00"
    name = body[3 : 3 + body[2]]
    if len(name) != body[2]:
        raise MalformedClientHello("an ALPN protocol name is cut off")
    if name[0] in _ALPHANUMERIC and name[-1] in _ALPHANUMERIC:
        return chr(name[0]) + chr(name[-1])
    digits = name.hex()
    return digits[0] + digits[-1]
