"""Log lines: their form, their level, and what becomes of trouble."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from symphony.observe.logs import configure_logging, name_process


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the process as other tests expect it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    name_process("")
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines() -> None:
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    name_process("acceptor-0")
    structlog.get_logger().info("connection closed", sni="a.example", bytes_up=5, why=object)
    [line] = lines(stream)
    assert list(line)[:4] == ["timestamp", "level", "process", "event"]
    assert (line["level"], line["process"], line["event"]) == ("info", "acceptor-0", "connection closed")
    assert (line["sni"], line["bytes_up"], line["why"]) == ("a.example", 5, "<class 'object'>")
    assert line["timestamp"].endswith("Z")
    age = datetime.now(UTC) - datetime.fromisoformat(line["timestamp"])
    assert abs(age.total_seconds()) < 60


def test_levels() -> None:
    stream = io.StringIO()
    configure_logging("json", "warning", stream)
    log = structlog.get_logger()
    for level in ("debug", "info", "warning", "error"):
        getattr(log, level)(level)
        getattr(logging.getLogger("some.module"), level)("standard %s", level)
    assert [line["event"] for line in lines(stream)] == [
        "warning",
        "standard warning",
        "error",
        "standard error",
    ]
    assert [line["level"] for line in lines(stream)] == ["warning", "warning", "error", "error"]
    assert lines(stream)[1]["logger"] == "some.module"


@pytest.mark.parametrize("format", ["json", "console"])
def test_exceptions_without_values_of_variables(format: Any) -> None:
    stream = io.StringIO()
    configure_logging(format, "info", stream)
    key = "-----BEGIN " + "SECRET"
    try:
        raise RuntimeError(f"no {len(key)}")
    except RuntimeError:
        structlog.get_logger().exception("failed")
        logging.getLogger("x").exception("failed too")
    text = stream.getvalue()
    assert text.count("RuntimeError: no 17") == 2
    assert text.count("Traceback (most recent call last)") == 2
    assert "BEGIN SECRET" not in text
    if format == "json":
        assert [line["level"] for line in lines(stream)] == ["error", "error"]


def test_what_json_cannot_say() -> None:
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    structlog.get_logger().info("half a pair", file="a\udcff", table={1: object(), (2, 3): 4})
    [line] = lines(stream)
    assert line["file"] == "a\udcff"


def test_lines_stay_lines() -> None:
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    structlog.get_logger().info("one\ntwo", sni="a\nb\r\x1b[31m")
    assert len(stream.getvalue().splitlines()) == 1


def test_console(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(stream: io.StringIO) -> str:
        configure_logging("console", "info", stream)
        name_process("acceptor-1")
        structlog.get_logger().info("ready", port=8443)
        return stream.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    plain = shown(io.StringIO())
    assert "\x1b" not in plain and "ready" in plain and "port=8443" in plain and "acceptor-1" in plain
    assert "\x1b[" in shown(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown(Terminal())


def test_a_log_that_nobody_reads_stops_nobody() -> None:
    configure_logging("json", "info", Broken())
    structlog.get_logger().info("lost")
    closed = io.StringIO()
    configure_logging("console", "info", closed)
    closed.close()
    logging.getLogger("x").warning("lost")


def test_configuring_again_replaces() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging("json", "info", first)
    configure_logging("json", "debug", second)
    logging.getLogger("x").debug("once")
    assert not first.getvalue()
    assert len(lines(second)) == 1


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="expected console or json"):
        configure_logging("xml", "info")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected one of debug, info, warning, error"):
        configure_logging("json", "loud")
