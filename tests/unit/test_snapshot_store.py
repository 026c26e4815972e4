"""The last good snapshot on disk."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from symphony.config.model import TcpUpstream, UdsUpstream
from symphony.config.snapshot import (
    ClientAuthority,
    Identity,
    ListenerEntry,
    RouteEntry,
    Snapshot,
    TlsPolicy,
)
from symphony.routing.snapshot_keeper import sampled_threads
from symphony.routing.snapshot_store import SnapshotStore, SnapshotStoreError, StoredSnapshot

SNAPSHOT = Snapshot(
    version=7,
    read_buffer_size=65536,
    drain_timeout_ms=30000,
    listeners=(ListenerEntry("127.0.0.1:1", "127.0.0.1", 1, 0, 60000, 10000),),
    routes=(
        RouteEntry(
            "b.example", (UdsUpstream(path="/b", pid=5, tid=9), UdsUpstream(path="/c")), True, (0,), 1.5, 2.0
        ),
        RouteEntry(
            "", (TcpUpstream(host="::1", port=2), UdsUpstream(path="/a", pid=5, tid=6)), False, (), 0.0, 0.0
        ),
        RouteEntry("c.example", (UdsUpstream(path="/d", pid=5, tid=9),), False, (), 0.0, 0.0),
    ),
    policies=(TlsPolicy("i", "a", True),),
    identities={"i": Identity(b"chain", b"key")},
    client_authorities={"a": ClientAuthority(b"ca", True)},
)
STORED = StoredSnapshot("/etc/symphony/symphony.toml", SNAPSHOT, 42)


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(str(tmp_path))


def test_round_trip(store: SnapshotStore) -> None:
    assert store.load() is None
    store.save(STORED)
    assert store.load() == STORED
    later = msgspec.structs.replace(STORED, snapshot=msgspec.structs.replace(SNAPSHOT, version=8))
    store.save(later)
    assert store.load() == later


def test_mode_does_not_depend_on_the_umask(store: SnapshotStore) -> None:
    before = os.umask(0)
    try:
        store.save(STORED)
    finally:
        os.umask(before)
    assert os.stat(store.path).st_mode & 0o777 == 0o600


def test_what_an_earlier_life_left_half_written_is_replaced(store: SnapshotStore, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(b"mine")
    os.symlink(target, f"{store.path}.new")
    store.save(STORED)
    assert store.load() == STORED
    assert target.read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "snapshot.bin"]


def test_a_failed_write_leaves_what_was_there(store: SnapshotStore) -> None:
    store.save(STORED)
    os.mkdir(f"{store.path}.new")
    with pytest.raises(SnapshotStoreError, match=r"snapshot\.bin: cannot be written: "):
        store.save(StoredSnapshot("/other", SNAPSHOT))
    assert store.load() == STORED


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    store = SnapshotStore(str(tmp_path / "gone"))
    assert store.load() is None
    with pytest.raises(SnapshotStoreError, match="cannot be written"):
        store.save(STORED)


@pytest.mark.parametrize("size", [0, 1, 50])
def test_damaged(store: SnapshotStore, size: int) -> None:
    store.save(STORED)
    content = Path(store.path).read_bytes()
    for damaged in (content[:size], b"\xff" * size, content[size:]):
        if damaged != content:
            Path(store.path).write_bytes(damaged)
            with pytest.raises(SnapshotStoreError, match="not a snapshot"):
                store.load()


def test_another_format(store: SnapshotStore) -> None:
    store.save(STORED)
    Path(store.path).write_bytes(msgspec.msgpack.encode((2, {"new": "things"})))
    with pytest.raises(SnapshotStoreError, match="format 2, expected 1"):
        store.load()


@pytest.mark.parametrize("mode", [0o640, 0o602, 0o660, 0o777])
def test_open_to_others(store: SnapshotStore, mode: int) -> None:
    store.save(STORED)
    os.chmod(store.path, mode)
    with pytest.raises(SnapshotStoreError, match=f"has mode 0{mode:o}, expected 0600"):
        store.load()


def test_not_a_file(store: SnapshotStore, tmp_path: Path) -> None:
    os.mkfifo(store.path)
    with pytest.raises(SnapshotStoreError, match="is not a regular file"):
        store.load()
    os.unlink(store.path)
    os.symlink(tmp_path, store.path)
    with pytest.raises(SnapshotStoreError, match="cannot be read"):
        store.load()


def test_sampled_threads() -> None:
    assert sampled_threads(SNAPSHOT) == ((5, 6), (5, 9))
