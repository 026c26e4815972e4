"""Server names and hosts in the one form in which they are compared: lower-case A-labels, no trailing dot.

Internationalised names are mapped by UTS 46 (non-transitional) and encoded by IDNA 2008 (RFC 5891). A server
name is a DNS host name and never an address (RFC 6066 section 3). Underscores are let through, since names in
private networks have them.
"""

from __future__ import annotations

import ipaddress
import re

import idna

from symphony.config.wording import quoted

LABEL_LIMIT = 63
NAME_LIMIT = 253
DEFAULT_ROUTE = "default"
"""How the default route is called where its name, which is empty, would not do."""

_ASCII_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
# What nearly every name looks like; all else takes the long way. 63 characters have room for no label too long.
_PLAIN_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)*[a-z][a-z0-9_]*")
_PLAIN_LIMIT = LABEL_LIMIT
_CLIENT_NAME = re.compile(rb"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")


class ServerNameError(ValueError):
    """A name that cannot be used; its text says why."""


def normalise_server_name(text: str) -> str:
    """Normalise what a route's `sni` says: a name, ``*.suffix``, or "" for the default.

    Raises :class:`ServerNameError` for anything else: addresses, a ``*`` elsewhere, bad IDNs, labels or names that
    are empty or too long.
    """
    if not text or _is_plain(text):
        return text
    if text.startswith("*."):
        suffix = _normalise_name(text[2:], text)
        if len(suffix) > NAME_LIMIT - 2:
            raise ServerNameError(
                f"{quoted(text)} leaves no room for a label: a name has {NAME_LIMIT} characters"
            )
        return "*." + suffix
    if text == "*":
        raise ServerNameError('"*" is not a server name: write "" for the default route, or "*.suffix"')
    if _is_address(text):
        raise ServerNameError(
            f"{quoted(text)} is an address, which clients never send as a server name: expected a name, "
            '"*.suffix", or "" for the default route'
        )
    return _normalise_name(text, text)


def normalise_host(text: str) -> str:
    """Normalise an upstream's or listener's host: an IPv4 or IPv6 address, or a name.

    A name keeps its trailing dot, which tells resolvers not to try their search domains.

    Raises :class:`ServerNameError`.
    """
    if _is_plain(text):
        return text
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    if text.startswith("[") and _is_address(text):
        raise ServerNameError(
            f"{quoted(text)} has brackets: expected the address alone, as in {quoted(text[1:-1])}"
        )
    if not text:
        raise ServerNameError("is empty: expected an address or a name")
    if "*" in text:
        raise ServerNameError(f"{quoted(text)} has a wildcard: expected an address or a name")
    return _normalise_name(text, text) + ("." if text.endswith(".") else "")


def normalise_client_name(name: bytes) -> str | None:
    """Normalise the server name of a ClientHello, or return None for bytes that cannot be a host name.

    The hot path: no IDN is looked into, as clients send A-labels.
    """
    lower = name.lower()
    if lower.endswith(b"."):
        lower = lower[:-1]
    if len(lower) > NAME_LIMIT or _CLIENT_NAME.fullmatch(lower) is None:
        return None
    return lower.decode("ascii")


def _normalise_name(name: str, written: str) -> str:
    if _is_plain(name):
        return name
    # UTS 46 may shorten a name, but not to a quarter; and mapping costs time in proportion.
    if len(name) > 4 * NAME_LIMIT:
        raise ServerNameError(f"{quoted(written)} is too long: a name has at most {NAME_LIMIT} characters")
    if name.isascii():
        mapped = name.lower()
    else:
        try:
            mapped = idna.uts46_remap(name, std3_rules=False, transitional=False)
        except idna.IDNAError as error:
            raise ServerNameError(
                f"{quoted(written)} is not a valid internationalised name: {error}"
            ) from None
    labels = [_normalise_label(label, written) for label in mapped.removesuffix(".").split(".")]
    result = ".".join(labels)
    if len(result) > NAME_LIMIT:
        raise ServerNameError(
            f"{quoted(written)} is too long: it has {len(result)} characters, a name at most {NAME_LIMIT}"
        )
    if labels[-1].isdigit():
        raise ServerNameError(
            f"{quoted(written)} is neither a name nor an address: the last label is a number"
        )
    return result


def _normalise_label(label: str, written: str) -> str:
    if not label:
        raise ServerNameError(
            f"{quoted(written)} has an empty label: expected names with single dots between them"
        )
    if "*" in label:
        raise ServerNameError(
            f'{quoted(written)} has a "*" where none may stand: expected it as the whole first label, '
            'as in "*.example.com"'
        )
    if label.isascii() and len(label) > LABEL_LIMIT:
        raise ServerNameError(
            f"{quoted(written)} has a label of {len(label)} characters: expected at most {LABEL_LIMIT}"
        )
    try:
        if not label.isascii():
            return idna.alabel(label).decode("ascii")
        if label.startswith("xn--"):
            if idna.alabel(idna.ulabel(label)).decode("ascii") != label:
                raise ServerNameError(
                    f"{quoted(written)}: {quoted(label)} is not what its own decoding encodes to"
                )
            return label
    except (idna.IDNAError, UnicodeError) as error:
        raise ServerNameError(f"{quoted(written)} is not a valid internationalised name: {error}") from None
    if _ASCII_LABEL.fullmatch(label) is None:
        raise ServerNameError(
            f"{quoted(written)}: {quoted(label)} is not a label: expected letters, digits and hyphens, "
            "with no hyphen at either end"
        )
    return label


def _is_plain(name: str) -> bool:
    return len(name) <= _PLAIN_LIMIT and "--" not in name and _PLAIN_NAME.fullmatch(name) is not None


def _is_address(text: str) -> bool:
    bare = text.removesuffix(".")
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1]
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return False
    return True
