"""A configuration given by a program, as the document that a tree of its own reads: plain values, absolute paths."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from symphony.config.original import is_original, translate
from symphony.config.problem import ConfigError, Problem, Severity
from symphony.config.source import read_document

ConfigLike: TypeAlias = "Struct | Mapping[str, Any] | str | os.PathLike[str]"
"""A :class:`symphony.config.model.Config`, a mapping of the same shape, or the path of a configuration file."""

RoutesLike: TypeAlias = "Sequence[Any] | Struct | Mapping[str, Any] | str | os.PathLike[str]"
"""Routes, each a :class:`symphony.config.model.Route` or a mapping; or all those of a :data:`ConfigLike`."""

_PATHS = frozenset(
    {
        "asn_database_path",
        "cert_chain_file",
        "client_ca_cert_file",
        "path",
        "private_key_file",
        "runtime_dir",
        "socket_path",
    }
)
_LISTS = frozenset({"allowlist", "blocklist", "trusted_proxies"})


def make_document(config: ConfigLike) -> dict[str, Any]:
    """Return `config` as a document. Paths in a file are relative to it, all others to the working directory.

    PEM may be bytes. Raises :class:`ConfigError` for a file that cannot be read or parsed, and TypeError for a value
    that no configuration has.
    """
    if isinstance(config, str | os.PathLike):
        document = read_document(os.fspath(config))
        return _absolute_table(_translated(document.content, document.file), document.directory)
    built = as_table(msgspec.to_builtins(_text(config)))
    return _absolute_table(_translated(built, ""), os.getcwd())


def make_routes(routes: RoutesLike) -> list[Any]:
    """Return `routes` as a document has them; raises as :func:`make_document`."""
    if isinstance(routes, str | os.PathLike | Struct | Mapping):
        found = make_document(routes).get("routes", [])
        return found if isinstance(found, list) else [found]
    built = plain(routes)
    if not isinstance(built, list):
        raise TypeError(f"expected routes, found {type(routes).__name__}")
    return built


def _translated(content: dict[str, Any], file: str) -> dict[str, Any]:
    """In this project's own keys, which is what parts of it are replaced by."""
    if not is_original(content):
        return content
    content, problems = translate(content)
    if any(problem.severity is Severity.ERROR for problem in problems):
        raise ConfigError(file, problems)
    return content


def _absolute_table(content: dict[str, Any], directory: str) -> dict[str, Any]:
    return as_table(_absolute(content, directory))


def plain(value: Any) -> Any:
    """Typed objects, mappings and sequences as plain values with absolute paths."""
    built = msgspec.to_builtins(_text(value))
    return _absolute(built, os.getcwd())


def as_table(value: Any) -> dict[str, Any]:
    """Say of what is no table that it is none."""
    if not isinstance(value, dict):
        raise TypeError(f"expected a configuration or a mapping, found {type(value).__name__}")
    return value


def replace_protection(listeners: Any, protection: Any) -> list[dict[str, Any]]:
    """Return a document's `listeners` with another protection: one for all of them, or one each by port.

    Raises :class:`ConfigError` for a port that no listener has.
    """
    given = plain(protection)
    by_port = isinstance(protection, Mapping) and all(isinstance(key, int) for key in protection)
    if by_port:
        unknown = set(protection) - {listener.get("port") for listener in listeners}
        if unknown:
            place = Problem(
                "listeners", f"no listener has port {min(unknown)}: expected one that is configured"
            )
            raise ConfigError("", [place])
    result = []
    for listener in listeners:
        wanted = given.get(listener.get("port"), given.get(str(listener.get("port")))) if by_port else given
        result.append(listener if wanted is None else {**listener, "protection": as_table(wanted)})
    return result


def _text(value: Any) -> Any:
    """Turn PEM in bytes into text; leave out what is None, as no file has it."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("ascii")
    if isinstance(value, Struct):
        return _text(msgspec.to_builtins(value, builtin_types=(bytes, bytearray, memoryview), enc_hook=_path))
    if isinstance(value, Mapping):
        return {key: _text(item) for key, item in value.items() if item is not None}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_text(item) for item in value]
    return value


def _path(value: Any) -> str:
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    raise TypeError(f"no configuration has a {type(value).__name__}")


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
