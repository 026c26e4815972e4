"""A configuration given by a program, as the document that a tree of its own reads: plain values, absolute paths."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from symphony.config.source import read_document

ConfigLike: TypeAlias = "Struct | Mapping[str, Any] | str | os.PathLike[str]"
"""A :class:`symphony.config.model.Config`, a mapping of the same shape, or the path of a configuration file."""

_PATHS = frozenset(
    {"cert_chain_file", "private_key_file", "client_ca_cert_file", "path", "socket_path", "runtime_dir"}
)
_LISTS = frozenset({"allowlist", "blocklist", "trusted_proxies"})


def make_document(config: ConfigLike) -> dict[str, Any]:
    """Return `config` as a document. Paths in a file are relative to it, all others to the working directory.

    PEM may be bytes. Raises :class:`ConfigError` for a file that cannot be read or parsed, and TypeError for a value
    that no configuration has.
    """
    if isinstance(config, str | os.PathLike):
        document = read_document(os.fspath(config))
        return as_table(_absolute(document.content, document.directory))
    return as_table(plain(config))


def plain(value: Any) -> Any:
    """Typed objects, mappings and sequences as plain values with absolute paths."""
    built = msgspec.to_builtins(_text(value))
    return _absolute(built, os.getcwd())


def as_table(value: Any) -> dict[str, Any]:
    """Say of what is no table that it is none."""
    if not isinstance(value, dict):
        raise TypeError(f"expected a configuration or a mapping, found {type(value).__name__}")
    return value


def _text(value: Any) -> Any:
    """Turn PEM in bytes into text; leave out what is None, as no file has it."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("ascii")
    if isinstance(value, Struct):
        return _text(msgspec.to_builtins(value))
    if isinstance(value, Mapping):
        return {key: _text(item) for key, item in value.items() if item is not None}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_text(item) for item in value]
    return value


def _absolute(value: Any, directory: str, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _absolute(item, directory, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_absolute(item, directory, key) for item in value]
    if isinstance(value, str) and value:
        if key in _PATHS:
            return os.path.join(directory, value)
        if key in _LISTS and value.startswith("@"):
            return "@" + os.path.join(directory, value[1:])
    return value
