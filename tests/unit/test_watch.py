"""Watched files: real directories, real inotify, and every way in which tools replace a file."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import CapturingLogger

from symphony.config.source import UnreadableFile, read_file
from symphony.watch import watch as watch_module
from symphony.watch.files import SeenFile, Sightings, look_again
from symphony.watch.inotify import parse_events
from symphony.watch.lookup import entries
from symphony.watch.watch import FileWatch

QUIET_S = 0.05
LIMIT_S = 10.0
NEVER_S = 3600.0
LIMIT = 1000


def see(*paths: Path, limit: int = LIMIT) -> tuple[SeenFile, ...]:
    """Read files as a load of the configuration does; missing ones as well."""
    sightings = Sightings()
    for path in paths:
        try:
            read_file(str(path), limit, sightings)
        except UnreadableFile:
            continue
    return sightings.files


@asynccontextmanager
async def watching(*paths: Path, look_every_s: float = NEVER_S) -> AsyncIterator[asyncio.Task[None]]:
    """Watch files that were just read; the task ends when they have changed."""
    watch = FileWatch(quiet_s=QUIET_S, look_every_s=look_every_s)
    try:
        watch.follow(see(*paths))
        task = asyncio.create_task(watch.changed())
        await settle(watch)
        yield task
        task.cancel()
    finally:
        watch.close()


async def settle(watch: FileWatch) -> None:
    """Wait until the watch has looked at what it was given."""
    deadline = time.monotonic() + LIMIT_S
    while watch._stirred.is_set() or (watch._inotify is not None and not watch._names):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def expect_change(task: asyncio.Task[None]) -> None:
    await asyncio.wait_for(asyncio.shield(task), LIMIT_S)


async def expect_none(task: asyncio.Task[None]) -> None:
    """Nothing is told in the time in which every change is told."""
    await asyncio.wait([task], timeout=10 * QUIET_S)
    assert not task.done()


def rename_over(path: Path) -> None:
    new = path.with_name("new")
    new.write_text("two")
    new.rename(path)


def remove_and_make(path: Path) -> None:
    path.unlink()
    path.write_text("two")


def swap_directory(path: Path) -> None:
    new = path.parent.with_name("new-directory")
    new.mkdir()
    (new / path.name).write_text("two")
    path.parent.rename(path.parent.with_name("old-directory"))
    new.rename(path.parent)


def rename_away(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def become_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text("two"),
        rename_over,
        remove_and_make,
        swap_directory,
        rename_away,
        os.unlink,
        become_directory,
        lambda path: shutil.rmtree(path.parent),
    ],
    ids=["in-place", "rename", "remove-and-make", "directory", "moved", "removed", "no-file", "no-directory"],
)
async def test_every_way_of_changing_a_file_is_noticed(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "certs" / "cert.pem"
    path.parent.mkdir()
    path.write_text("one")
    async with watching(path) as task:
        await expect_none(task)
        change(path)
        await expect_change(task)


async def test_same_size_and_times_as_before(tmp_path: Path) -> None:
    """Tools that keep the times of what they copy change content and inode only."""
    path = tmp_path / "cert.pem"
    path.write_text("one")
    os.utime(path, (1, 1))
    async with watching(path) as task:
        new = tmp_path / "new"
        new.write_text("two")
        os.utime(new, (1, 1))
        new.rename(path)
        await expect_change(task)


async def test_projected_volume_of_kubernetes(tmp_path: Path) -> None:
    """The volume's files are links into ``..data``, itself a link that is replaced by a rename; twice in a row."""

    def publish(number: int) -> None:
        (tmp_path / f"..2026_{number}").mkdir()
        (tmp_path / f"..2026_{number}" / "tls.crt").write_text(f"certificate {number}")
        (tmp_path / "..data_tmp").symlink_to(f"..2026_{number}")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    publish(1)
    path = tmp_path / "tls.crt"
    path.symlink_to("..data/tls.crt")
    watch = FileWatch(quiet_s=QUIET_S, look_every_s=NEVER_S)
    try:
        for number in (2, 3):
            watch.follow(see(path))
            task = asyncio.create_task(watch.changed())
            await settle(watch)
            await expect_none(task)
            publish(number)
            shutil.rmtree(tmp_path / f"..2026_{number - 1}")
            await expect_change(task)
    finally:
        watch.close()


async def test_links_as_certbot_turns_them(tmp_path: Path) -> None:
    archive, live = tmp_path / "archive", tmp_path / "live"
    archive.mkdir()
    live.mkdir()
    (archive / "cert1.pem").write_text("one")
    (archive / "cert2.pem").write_text("two")
    path = live / "cert.pem"
    path.symlink_to("../archive/cert1.pem")
    async with watching(path) as task:
        path.unlink()
        path.symlink_to("../archive/cert2.pem")
        await expect_change(task)
    async with watching(path) as task:
        (archive / "cert2.pem").write_text("three")
        await expect_change(task)


async def test_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    """Nor its directory, nor the directory's: all of them come one after the other."""
    path = tmp_path / "a" / "b" / "list.txt"
    async with watching(path) as task:
        path.parent.parent.mkdir()
        await expect_none(task)
        path.parent.mkdir()
        await expect_none(task)
        path.write_text("one")
        await expect_change(task)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.with_name("neighbour").write_text("two"),
        lambda path: path.touch(),
        lambda path: path.write_text("one"),
        lambda path: path.with_name("new").write_text("one") and path.with_name("new").rename(path),
        lambda path: path.chmod(0o600),
    ],
    ids=["neighbour", "touched", "written-the-same", "renamed-the-same", "mode"],
)
async def test_what_changes_no_content_is_no_change(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "cert.pem"
    path.write_text("one")
    async with watching(path) as task:
        change(path)
        await expect_none(task)
        path.write_text("two")
        await expect_change(task)


async def test_several_files_written_one_after_the_other_are_one_change(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.pem" for number in range(5)]
    for path in paths:
        path.write_text("one")
    async with watching(*paths) as task:
        for path in paths:
            path.write_text("two")
            await asyncio.sleep(QUIET_S / 5)
            assert not task.done()
        await expect_change(task)
        assert all(look_again(seen) == seen for seen in see(*paths) if seen.look is not None)


async def test_a_file_that_is_never_quiet_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "LONGEST_S", 0.3)
    path = tmp_path / "list.txt"
    path.write_text("")
    async with watching(path) as task:
        deadline = time.monotonic() + LIMIT_S
        while not task.done():
            assert time.monotonic() < deadline
            with path.open("a") as file:
                file.write("x")
            await asyncio.sleep(QUIET_S / 5)


async def test_without_inotify_files_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    log = CapturingLogger()
    monkeypatch.setattr(watch_module, "log", log)
    monkeypatch.setattr(watch_module, "Inotify", refuse)
    path = tmp_path / "cert.pem"
    path.write_text("one")
    async with watching(path, look_every_s=0.05) as task:
        path.write_text("two")
        await expect_change(task)
    (told,) = log.calls
    assert told.args == ("changes_noticed_late",)
    assert "fs.inotify.max_user_instances" in told.kwargs["advice"]


async def test_a_change_between_reading_and_watching_is_noticed(tmp_path: Path) -> None:
    """What counts is what was read: also when the file changes before anything watches it, with size and time kept."""
    path = tmp_path / "cert.pem"
    path.write_text("one")
    seen = see(path)
    before = path.stat()
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    watch = FileWatch(quiet_s=QUIET_S, look_every_s=NEVER_S)
    try:
        watch.follow(seen)
        await asyncio.wait_for(watch.changed(), LIMIT_S)
    finally:
        watch.close()


async def test_watches_are_taken_down_with_what_they_were_for(tmp_path: Path) -> None:
    paths = []
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        paths.append(tmp_path / str(number) / "cert.pem")
        paths[-1].write_text("one")
    watch = FileWatch(quiet_s=QUIET_S, look_every_s=NEVER_S)
    try:
        watch.follow(see(*paths))
        task = asyncio.create_task(watch.changed())
        await settle(watch)
        assert watch._inotify is not None
        assert watches(watch._inotify.fd) >= 20
        watch.follow(see(paths[0]))
        deadline = time.monotonic() + LIMIT_S
        while watches(watch._inotify.fd) >= 20:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        paths[5].write_text("two")
        await expect_none(task)
        paths[0].write_text("two")
        await expect_change(task)
    finally:
        watch.close()


def watches(fd: int) -> int:
    """How many directories an inotify descriptor watches, as the kernel says."""
    return Path(f"/proc/self/fdinfo/{fd}").read_text().count("inotify wd:")


def test_entries_of_a_lookup(tmp_path: Path) -> None:
    (tmp_path / "..1").mkdir()
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "tls.crt").symlink_to("..data/tls.crt")
    found = entries([str(tmp_path / "tls.crt"), str(tmp_path / "missing" / "list")])
    assert found[str(tmp_path)] == {"tls.crt", "..data", "..1", "missing"}
    assert found[str(tmp_path / "..1")] == {"tls.crt"}
    assert found[str(tmp_path / "missing")] == {"list"}
    assert tmp_path.name in found[str(tmp_path.parent)]
    assert tmp_path.parts[1] in found["/"]


def test_entries_of_absolute_and_upward_links_and_of_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "up").symlink_to("../file")
    (tmp_path / "absolute").symlink_to(tmp_path / "a" / "up")
    assert "file" in entries([str(tmp_path / "absolute")])[str(tmp_path)]
    (tmp_path / "circle").symlink_to("circle")
    assert "circle" in entries([str(tmp_path / "circle"), "/no\0name", "/\udcff\ud800"])[str(tmp_path)]


def test_events_of_the_kernel() -> None:
    one = (7).to_bytes(4, "little") + bytes(8) + (16).to_bytes(4, "little") + b"tls.crt".ljust(16, b"\0")
    own = (8).to_bytes(4, "little") + bytes(12)
    lost = b"\xff" * 4 + bytes(12)
    assert list(parse_events(one + own + lost + one)) == [(7, "tls.crt"), (8, ""), (-1, ""), (7, "tls.crt")]
    assert list(parse_events(b"")) == []


def test_a_file_that_is_too_large_stays_the_same_while_it_is(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"x" * (LIMIT + 1))
    os.utime(path, (1, 1))
    (seen,) = see(path)
    assert look_again(seen) == seen
    path.write_bytes(b"x" * LIMIT)
    assert look_again(seen) is None


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe"])
def test_what_cannot_be_read_stays_the_same_until_it_can(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    (seen,) = see(path)
    assert look_again(seen) == seen
    if kind != "missing":
        os.rmdir(path) if kind == "directory" else path.unlink()
    path.write_text("")
    assert look_again(seen) is None
