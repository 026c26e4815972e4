"""Finds the configuration file and parses it: TOML, or YAML and JSON by the file's ending.

Syntax errors are reported by line and column, and never with the text that stands there: it may be a key.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from typing import Any, NoReturn

import yaml
from msgspec import Struct

from symphony.config.problem import ConfigError, Problem
from symphony.config.wording import found, quoted
from symphony.watch.files import Sightings

VARIABLE = "SYMPHONY_CONFIG"
DEFAULT_FILES = ("./symphony.toml", "/etc/symphony/symphony.toml")
SIZE_LIMIT = 64 << 20

# Deeper nesting is never meant. libyaml composes recursively in C, and takes quadratic time, without a limit.
_DEPTH_LIMIT = 64
_TOML_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
# JSON and YAML can spell them; no encoder takes them, neither msgspec's nor the terminal's.
_SURROGATE_ESCAPE = re.compile(r"\\[uU](?:0000)?[dD][89a-fA-F]")
_YAML_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Document(Struct, frozen=True):
    """A parsed file. `directory` is absolute; names of further files are relative to it."""

    file: str
    directory: str
    content: dict[str, Any]

    def __repr__(self) -> str:
        """Print no content: keys may be inline."""
        return f"Document({self.file})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Replace Struct's own, which shows every field."""
        return [("file", self.file)]


def find_file(named: str | None, environment: Mapping[str, str] | None = None) -> str:
    """The file to read: `named`, else what ``$SYMPHONY_CONFIG`` says, else the first default that exists.

    A file that is named, here or in the environment, is returned whether it exists or not.

    Raises :class:`ConfigError` that lists all places when there is none.
    """
    chosen = named or (os.environ if environment is None else environment).get(VARIABLE)
    if chosen:
        return chosen
    for path in DEFAULT_FILES:
        if os.path.exists(path):
            return path
    places = ", ".join(DEFAULT_FILES)
    raise ConfigError("", [Problem("", f"no configuration file: expected -c FILE, ${VARIABLE}, or {places}")])


def read_document(path: str, sightings: Sightings | None = None) -> Document:
    """Read and parse the file at `path`. Raises :class:`ConfigError`."""
    try:
        text = _decode(path, read_file(path, SIZE_LIMIT, sightings))
    except UnreadableFile as error:
        raise ConfigError(path, [Problem("", str(error))]) from None
    ending = os.path.splitext(path)[1].lower()
    try:
        if ending == ".json":
            content = _parse_json(path, text)
        elif ending in (".yaml", ".yml"):
            content = _parse_yaml(path, text)
        else:
            content = _parse_toml(path, text)
        if _SURROGATE_ESCAPE.search(text) and _has_lone_surrogate(content):
            _refuse(path, None, None, r"a string has half of a surrogate pair (\ud800 to \udfff)")
    except RecursionError:
        _refuse(path, None, None, "tables or arrays are nested too deeply")
    except ValueError as error:
        # What the parsers let through from int() and datetime(): a number of 5000 digits, the 31st of February.
        _refuse(path, None, None, f"a value cannot be read: {error}")
    if content is None:
        content = {}
    if not isinstance(content, dict):
        _refuse(path, None, None, f"expected a table of keys, found {found(content)}")
    return Document(path, os.path.dirname(os.path.abspath(path)), content)


class UnreadableFile(Exception):
    """A file that cannot be read; the text says why and what is expected."""


def read_file(path: str, limit: int, sightings: Sightings | None = None) -> bytes:
    """Read a regular file of at most `limit` bytes. Raises :class:`UnreadableFile`. Either way `sightings` are told."""
    return read_file_and_status(path, limit, sightings)[0]


def read_file_and_status(
    path: str, limit: int, sightings: Sightings | None = None
) -> tuple[bytes, os.stat_result]:
    """As :func:`read_file`, with the status of the very file that was read."""
    if sightings is not None:
        sightings.miss(path, limit)
    try:
        # Without O_NONBLOCK, opening a named pipe waits until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise UnreadableFile(f"{quoted(path)} does not exist: expected a readable file") from None
    except OSError as error:
        raise UnreadableFile(f"{quoted(path)} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UnreadableFile(f"{quoted(path)} is not a file name") from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableFile(f"{quoted(path)} is a directory: expected a file")
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableFile(f"{quoted(path)} is a device, socket or pipe: expected a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise UnreadableFile(f"{quoted(path)} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if sightings is not None:
        sightings.note(path, limit, status, content)
    if len(content) > limit:
        raise UnreadableFile(f"{quoted(path)} is too large: expected at most {limit} bytes")
    return content, status


def _decode(path: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - (content.rfind(b"\n", 0, error.start) + 1) + 1
        _refuse(path, line, column, "is not UTF-8")


def _refuse(path: str, line: int | None, column: int | None, text: str) -> NoReturn:
    place = "" if line is None else f"line {line}" if column is None else f"line {line}, column {column}"
    raise ConfigError(path, [Problem(place, text)]) from None


def _refuse_at(path: str, mark: Any, text: str) -> NoReturn:
    _refuse(path, mark and mark.line + 1, mark and mark.column + 1, text)


def _has_lone_surrogate(value: object) -> bool:
    match value:
        case str():
            return any("\ud800" <= character <= "\udfff" for character in value)
        case dict():
            return any(_has_lone_surrogate(item) for pair in value.items() for item in pair)
        case list():
            return any(_has_lone_surrogate(item) for item in value)
        case _:
            return False


def _parse_toml(path: str, text: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        position = _TOML_POSITION.search(message)
        if position is None:
            _refuse(path, None, None, f"is not valid TOML: {message}")
        line, column = position.groups()
        if line is None:
            line, column = str(text.count("\n") + 1), None
        _refuse(
            path,
            int(line),
            None if column is None else int(column),
            f"is not valid TOML: {message[: position.start()]}",
        )


def _parse_json(path: str, text: str) -> Any:
    def refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            keys = [key for key, _ in pairs]
            repeated = next(key for key in keys if keys.count(key) > 1)
            _refuse(path, None, None, f"the key {quoted(repeated)} stands twice in one table")
        return table

    def refuse_constant(name: str) -> NoReturn:
        _refuse(path, None, None, f"is not valid JSON: {name} is not a number")

    try:
        return json.loads(text, object_pairs_hook=refuse_repeated, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        _refuse(path, error.lineno, error.colno, f"is not valid JSON: {error.msg}")


def _parse_yaml(path: str, text: str) -> Any:
    try:
        _check_yaml_structure(path, text)
        return yaml.load(text, Loader=_YAML_LOADER)  # noqa: S506 - it is a safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        if error.context and "alias" in error.context:
            reason += ' (a text that begins with "*" needs quotes)'
        _refuse_at(path, mark, f"is not valid YAML: {reason}")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        _refuse(path, line, None, f"is not valid YAML: {error.reason}")


def _check_yaml_structure(path: str, text: str) -> None:
    """Refuse what the loader would take silently or die of: repeated keys, and very deep nesting."""
    # One entry per open collection: the keys seen so far, or None for a sequence; and whether a key comes next.
    open_keys: list[set[str] | None] = []
    expects_key: list[bool] = []
    for event in yaml.parse(text, Loader=_YAML_LOADER):
        if isinstance(event, yaml.CollectionEndEvent):
            open_keys.pop()
            expects_key.pop()
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        if open_keys and (keys := open_keys[-1]) is not None:
            if expects_key[-1] and isinstance(event, yaml.ScalarEvent):
                if event.value in keys:
                    _refuse_at(
                        path, event.start_mark, f"the key {quoted(event.value)} stands twice in one table"
                    )
                keys.add(event.value)
            expects_key[-1] = not expects_key[-1]
        if isinstance(event, yaml.CollectionStartEvent):
            open_keys.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
            expects_key.append(True)
            if len(open_keys) > _DEPTH_LIMIT:
                _refuse_at(path, event.start_mark, "tables or arrays are nested too deeply")
