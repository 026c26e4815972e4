"""Writing log lines without waiting: full pipes, gone readers, moved files."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from symphony.observe import line_sink
from symphony.observe.line_sink import WAITING_LIMIT, LineSink
from symphony.observe.logs import configure_logging, reopen_log

F_SETPIPE_SZ = 1031


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, 8192)
    os.set_blocking(reader, False)
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            pass


def read_all(reader: int) -> bytes:
    found = b""
    while True:
        try:
            part = os.read(reader, 1 << 16)
        except BlockingIOError:
            return found
        if not part:
            return found
        found += part


def test_lines_go_through_at_once(pipe: tuple[int, int]) -> None:
    sink = LineSink(descriptor=pipe[1])
    sink.write("one\n")
    sink.write("zwölf \udcff\n")
    assert read_all(pipe[0]) == "one\nzwölf \\udcff\n".encode()
    assert not sink.waiting and not sink.lost_by_all and not sink.isatty()


def test_a_full_pipe_is_not_waited_for_and_nothing_is_lost_that_fits(pipe: tuple[int, int]) -> None:
    sink = LineSink(descriptor=pipe[1])
    lines = [f"line {number} ".ljust(99, ".") + "\n" for number in range(2000)]
    for line in lines:
        sink.write(line)
    assert sink.waiting and not sink.lost_by_all
    found = b""
    while sink.waiting:
        found += read_all(pipe[0])
        sink.flush_waiting()
    found += read_all(pipe[0])
    assert found.decode() == "".join(lines)


def test_what_does_not_fit_is_dropped_counted_and_told(pipe: tuple[int, int]) -> None:
    sink = LineSink(descriptor=pipe[1], lost=lambda count: f"{count} lost\n")
    line = "x" * 999 + "\n"
    total = (WAITING_LIMIT + 8192) // 1000 + 50
    for _ in range(total):
        sink.write(line)
    assert 40 < sink.lost_by_all < 60
    found = b""
    while sink.waiting:
        found += read_all(pipe[0])
        sink.flush_waiting()
    sink.write("after\n")
    found += read_all(pipe[0])
    parts = found.decode().splitlines()
    assert parts[-2:] == [f"{sink.lost_by_all} lost", "after"]
    assert len(parts) == total - sink.lost_by_all + 2


def test_a_line_longer_than_the_pipe(pipe: tuple[int, int]) -> None:
    sink = LineSink(descriptor=pipe[1])
    line = "y" * 20_000 + "\n"
    sink.write(line)
    found = b""
    while sink.waiting:
        found += read_all(pipe[0])
        sink.flush_waiting()
    assert (found + read_all(pipe[0])).decode() == line


def test_nobody_reads_any_more(pipe: tuple[int, int]) -> None:
    sink = LineSink(descriptor=pipe[1])
    os.close(pipe[0])
    for _ in range(10):
        sink.write("lost\n")
    assert sink.lost_by_all == 10 and not sink.waiting


def test_closing_gives_up_on_a_reader_that_has_stopped(pipe: tuple[int, int]) -> None:
    sink = LineSink(descriptor=pipe[1])
    sink.write("z" * 10_000 + "\n")
    sink.close(0.02)
    assert not sink.waiting
    os.fstat(pipe[1])  # the descriptor is its owner's


def test_a_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "symphony.log"
    sink = LineSink(path=str(path))
    sink.write("one\n")
    path.rename(tmp_path / "old")
    sink.write("two\n")
    sink.reopen()
    sink.write("three\n")
    assert (tmp_path / "old").read_text() == "one\ntwo\n"
    assert path.read_text() == "three\n"
    sink.close()


def test_a_moved_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_sink, "LOOK_EVERY_S", 0.0)
    path = tmp_path / "symphony.log"
    sink = LineSink(path=str(path))
    for moved in ("a", "b"):
        sink.write(f"before {moved}\n")
        path.rename(tmp_path / moved)
    sink.write("last\n")
    assert [(tmp_path / name).read_text() for name in ("a", "b", "symphony.log")] == [
        "before a\n",
        "before b\n",
        "last\n",
    ]
    (tmp_path / "symphony.log").unlink()
    tmp_path.chmod(0o755)
    sink.write("again\n")
    assert path.read_text() == "again\n"
    sink.close()


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LineSink(path=str(tmp_path / "missing" / "x.log"))
    path = tmp_path / "d" / "symphony.log"
    path.parent.mkdir()
    sink = LineSink(path=str(path))
    path.unlink()
    path.parent.rmdir()
    sink.reopen()
    sink.write("into the file that was removed\n")
    assert not sink.lost_by_all
    sink.close()


def test_neither() -> None:
    with pytest.raises(ValueError, match="needs a descriptor or a path"):
        LineSink()


def test_a_file_under_a_given_number(tmp_path: Path) -> None:
    number = os.open(os.devnull, os.O_WRONLY)
    try:
        path = tmp_path / "x.log"
        sink = LineSink(descriptor=number, path=str(path))
        sink.write("one\n")
        os.write(number, b"two\n")
        path.rename(tmp_path / "old")
        sink.reopen()
        os.write(number, b"three\n")
        sink.close()
        os.write(number, b"four\n")
        assert (tmp_path / "old").read_text() == "one\ntwo\n"
        assert path.read_text() == "three\nfour\n"
        assert os.get_inheritable(number)
    finally:
        os.close(number)


def test_a_forked_child_leaves_what_waits_to_its_parent(pipe: tuple[int, int]) -> None:
    sink = LineSink(descriptor=pipe[1])
    sink.write("w" * 16000 + "\n")
    assert sink.waiting
    sink.forget_waiting()
    assert not sink.waiting and not sink.lost_by_all


async def test_waiting_lines_follow_when_there_is_room(pipe: tuple[int, int]) -> None:
    """Through the whole of the logging, with nothing logged after the jam."""
    try:
        configure_logging("json", "info", LineSink(descriptor=pipe[1]))
        log = structlog.get_logger()
        for number in range(100):
            log.info("jam", number=number, text="." * 100)
        found = b""
        async with asyncio.timeout(5):
            while found.count(b"\n") < 100:
                await asyncio.sleep(0.01)
                found += read_all(pipe[0])
        assert [json.loads(line)["number"] for line in found.splitlines()] == list(range(100))
    finally:
        structlog.reset_defaults()


def test_lost_lines_are_told_in_the_form_of_the_log(tmp_path: Path, pipe: tuple[int, int]) -> None:
    try:
        configure_logging("json", "info", LineSink(descriptor=pipe[1]))
        log = structlog.get_logger()
        for _ in range(WAITING_LIMIT // 1000 + 100):
            log.info("flood", text="." * 1000)
        found = b""
        for _ in range(2000):
            found += read_all(pipe[0])
            log.info("on")
            if b"log_lines_lost" in found:
                break
        [told] = [json.loads(line) for line in found.splitlines() if b"log_lines_lost" in line]
        assert told["level"] == "warning" and told["lines"] > 0
        path = tmp_path / "x.log"
        configure_logging("json", "info", LineSink(path=str(path)))
        path.unlink()
        reopen_log()
        structlog.get_logger().info("new")
        assert json.loads(path.read_text())["event"] == "new"
    finally:
        structlog.reset_defaults()


def test_what_forked_processes_lost_is_counted_together_and_outlives_them() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    sink = LineSink(descriptor=writer)
    sink.count_as("supervisor")
    for name, lines in (("acceptor-0", 5), ("acceptor-0", 2), ("admin", 1)):
        pid = os.fork()
        if not pid:
            sink.count_as(name)
            for _ in range(lines):
                sink.write("nobody reads this\n")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    sink.write("nor this\n")
    assert sink.lost_by_all == 9
    os.close(writer)
