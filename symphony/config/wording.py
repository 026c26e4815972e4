"""How findings name what they found: one wording for every format, and never a secret in it."""

from __future__ import annotations

import datetime
import difflib
import json
import re
from collections.abc import Iterable

_SHOWN = 60
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,40}")


def quoted(text: str) -> str:
    """Quote `text` for a finding: shortened, control characters escaped, PEM never shown."""
    if "-----BEGIN" in text:
        return "(PEM text)"
    if len(text) > _SHOWN:
        text = text[: _SHOWN - 3] + "..."
    # Lone surrogates, which JSON allows, are not printable either: they would break the terminal's encoder.
    return json.dumps(text, ensure_ascii=not text.isprintable())


def join_place(place: str, key: object) -> str:
    """Append a table key to a place, quoted where it is not a plain word."""
    name = key if isinstance(key, str) and _BARE_KEY.fullmatch(key) else quoted(str(key))
    return f"{place}.{name}" if place else name


def found(value: object) -> str:
    """Name a parsed value's type as a finding says it, with the value itself where it is a bare number."""
    match value:
        case None:
            return "null"
        case bool():
            return "the boolean " + ("true" if value else "false")
        case int() | float():
            digits = (
                str(value)
                if isinstance(value, float) or value.bit_length() < 128
                else "that is far too large"
            )
            return f"the number {digits}"
        case str():
            return "a string"
        case bytes():
            return "binary data"
        case dict():
            return "a table"
        case list() | tuple() | set() | frozenset():
            return "an array"
        case datetime.date() | datetime.time():
            return "a date or time"
        case _:
            return f"a {type(value).__name__}"


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that `name` most likely stands for, or None."""
    if not isinstance(name, str):
        return None
    candidates = list(known)
    plain = name[:80].lower().replace("-", "_")
    matches = difflib.get_close_matches(plain, candidates, n=1, cutoff=0.6)
    return matches[0] if matches else None


def alternatives(names: Iterable[str]) -> str:
    """Join words as in ``a, b or c``."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
