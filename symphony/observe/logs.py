"""Logs: one event per line on stderr, for people or for machines.

Code logs through :func:`structlog.get_logger`, or through :mod:`logging` where it must not know the product;
both come out in one form. A call below the level in force costs an empty method. Values are rendered as they
are: whoever logs bytes decodes them first.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from functools import partial
from typing import IO, Any, Literal

import msgspec
import structlog
from structlog.typing import Processor

from symphony.observe.line_sink import RETRY_S, LineSink

LogFormat = Literal["console", "json"]
LEVELS = ("debug", "info", "warning", "error")
_LEVEL_NAMES = {"warn": "warning", "exception": "error", "critical": "error"}

_process = ""
_sink: LineSink | None = None


def name_process(name: str) -> None:
    """Set the `process` field of every line from now on, such as ``acceptor-0``; for each forked child."""
    global _process
    _process = name
    if _sink is not None:
        _sink.count_as(name)


def reopen_log() -> None:
    """Open the log file of this process anew, if it logs to one: after it was moved away."""
    if _sink is not None:
        _sink.reopen()


def lines_lost() -> int:
    """Log lines that were lost by this process and those that share its log."""
    return _sink.lost_by_all if _sink is not None else 0


def configure_logging(format: LogFormat, level: str, stream: IO[str] | LineSink | None = None) -> None:
    """Log from now on, in this process and those forked from it, to `stream` (default: stderr).

    `level` is one of :data:`LEVELS`. Console lines are coloured on a terminal only, and never when ``NO_COLOR``
    is set. Raises ValueError for any other format or level.
    """
    if format not in ("console", "json"):
        raise ValueError(f"log format {format!r}, expected console or json")
    if level not in LEVELS:
        raise ValueError(f"log level {level!r}, expected one of {', '.join(LEVELS)}")
    number = logging.getLevelNamesMapping()[level.upper()]
    stream = sys.stderr if stream is None else stream
    render: list[Processor]
    if format == "json":
        render = [structlog.processors.format_exc_info, _render_json]
    else:
        colors = stream.isatty() and not os.environ.get("NO_COLOR")
        # The default traceback prints the values of local variables, and those may be keys.
        plain = structlog.dev.plain_traceback
        render = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    processors: list[Processor] = [_stamp, *render]
    global _sink
    _sink = stream if isinstance(stream, LineSink) else None
    if isinstance(stream, LineSink):
        stream.lost = partial(_tell_lost, processors)
    lines = _Lines(stream)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, _Foreign):
            root.removeHandler(handler)
    root.addHandler(_Foreign(processors, lines))
    root.setLevel(number)


def _tell_lost(processors: list[Processor], count: int) -> str:
    event: Any = {"event": "log_lines_lost", "lines": count}
    for process in processors:
        event = process(None, "warning", event)
    return f"{event}\n"


class _Lines:
    """Writes finished lines. One that cannot be written is lost, and whoever logged it goes on."""

    def __init__(self, stream: IO[str] | LineSink) -> None:
        self._stream = stream
        self._sink = stream if isinstance(stream, LineSink) else None
        self._retrying = False
        if self._sink is not None:
            os.register_at_fork(after_in_child=self._forked)

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (
            OSError,
            ValueError,
        ):  # nobody reads the pipe any more, the disk is full, the stream is closed
            pass
        if self._sink is not None and self._sink.waiting and not self._retrying:
            self._retry_later()

    def _retry_later(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # the next line tries again
        self._retrying = True
        loop.call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        if self._sink is not None and not self._sink.flush_waiting():
            self._retry_later()

    def _forked(self) -> None:
        self._retrying = False
        if self._sink is not None:
            self._sink.forget_waiting()

    debug = info = warning = error = critical = msg


class _Foreign(logging.Handler):
    """Brings records of :mod:`logging` into the same form."""

    def __init__(self, processors: list[Processor], lines: _Lines) -> None:
        super().__init__()
        self._processors = processors
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: Any = {"event": record.getMessage(), "logger": record.name}
            if record.exc_info:
                event["exc_info"] = record.exc_info
            for process in self._processors:
                event = process(None, record.levelname.lower(), event)
            self._lines.msg(event)
        except Exception:  # noqa: BLE001 - what every handler of the standard library does: it says so on stderr
            self.handleError(record)


def _stamp(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put time, level and process in front of the event."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    stamped: dict[str, Any] = {"timestamp": f"{now[:-6]}Z", "level": _LEVEL_NAMES.get(method, method)}
    if _process:
        stamped["process"] = _process
    stamped["event"] = event.pop("event", "")
    stamped.update(event)
    return stamped


def _render_json(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    try:
        return msgspec.json.encode(event, enc_hook=repr).decode()
    except (UnicodeEncodeError, TypeError, ValueError):
        # Half a surrogate pair, as in the name of a file that is not UTF-8, or a key that is no string.
        return json.dumps(event, default=repr, skipkeys=True)
