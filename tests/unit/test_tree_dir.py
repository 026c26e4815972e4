"""Two trees in one runtime directory: who is found there, and that nobody is missing at any moment."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from symphony.api.tree_dir import TreeDir, remove_all
from symphony.mailbox.address import RuntimeDirError


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "lock").touch()
    yield tmp_path


def put(tree: TreeDir, *names: str, text: str = "") -> None:
    for name in names:
        with open(os.path.join(tree.path, name), "w") as file:
            file.write(text or os.path.basename(tree.path))


def read(directory: Path | str, name: str) -> str:
    with open(os.path.join(directory, name)) as file:
        return file.read()


def there(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()} - {"lock"}


def test_a_tree_that_serves_is_found_in_the_directory_itself(place: Path) -> None:
    tree = TreeDir.make(str(place), serving=True)
    put(tree, "x.sock", "snapshot.bin")
    assert there(place) == {"a", "x.sock", "snapshot.bin"}
    tree.remove(serving=True)
    assert there(place) == set()


def test_one_takes_the_place_of_the_other_and_both_find_their_own(place: Path) -> None:
    old = TreeDir.make(str(place), serving=True)
    put(old, "x.sock", "only-old.sock", "snapshot.bin")
    new = TreeDir.make(str(place), serving=False)
    put(new, "x.sock", "only-new.sock", "snapshot.bin")
    assert read(place, "x.sock") == "a"
    assert stat.S_IMODE(os.stat(new.path).st_mode) == 0o700

    old.step_aside()
    assert read(place, "x.sock") == read(old.path, "x.sock") == "a"
    put(old, "later.sock")  # an actor that starts again
    assert not (place / "later.sock").exists()

    new.step_forward()
    assert {name: read(place, name) for name in ("x.sock", "only-new.sock", "snapshot.bin")} == {
        "x.sock": "b",
        "only-new.sock": "b",
        "snapshot.bin": "b",
    }
    assert read(new.path, "x.sock") == "b"
    assert {name: read(old.path, name) for name in ("x.sock", "only-old.sock", "later.sock")} == {
        "x.sock": "a",
        "only-old.sock": "a",
        "later.sock": "a",
    }
    assert there(place) == {"a", "a.d", "b", "x.sock", "only-new.sock", "snapshot.bin"}
    put(new, "later.sock")
    assert read(place, "later.sock") == "b"

    old.remove(serving=False)
    assert there(place) == {"b", "x.sock", "only-new.sock", "snapshot.bin", "later.sock"}
    third = TreeDir.make(str(place), serving=False)
    assert os.path.basename(third.path) == "a"
    third.remove(serving=False)
    new.remove(serving=True)
    assert there(place) == set()


@pytest.mark.parametrize("how_far", ["prepared", "stepped forward", "stepped forward and still there"])
def test_the_first_one_can_come_back(place: Path, how_far: str) -> None:
    old = TreeDir.make(str(place), serving=True)
    put(old, "x.sock", "only-old.sock")
    new = TreeDir.make(str(place), serving=False)
    put(new, "x.sock", "only-new.sock")
    old.step_aside()
    if how_far != "prepared":
        new.step_forward()
        put(new, "late.sock")
    old.step_forward()
    assert {read(place, name) for name in ("x.sock", "only-old.sock")} == {"a"}
    if how_far == "stepped forward and still there":
        # A next one gets its names before the one that failed has gone.
        next_ = TreeDir.make(str(place), serving=False)
        new.remove(serving=False)
        put(next_, "x.sock")
        assert read(next_.path, "x.sock") == "b"
        next_.remove(serving=False)
    else:
        new.remove(serving=False)
    assert there(place) == {"a", "x.sock", "only-old.sock"}


def test_what_cannot_be_found_is_never_missing(place: Path) -> None:
    old = TreeDir.make(str(place), serving=True)
    put(old, "x.sock")
    missing: list[OSError] = []
    seen: set[str] = set()
    done = threading.Event()

    def look(path: str) -> None:
        while not done.is_set():
            try:
                seen.add(read(path, "x.sock"))
            except OSError as error:
                missing.append(error)

    lookers = [
        threading.Thread(target=look, args=(str(place),)),
        threading.Thread(target=look, args=(old.path,)),
    ]
    for looker in lookers:
        looker.start()
    trees = [old]
    for _ in range(50):
        new = TreeDir.make(str(place), serving=False)
        put(new, "x.sock", text=f"{len(trees)}")
        trees[-1].step_aside()
        new.step_forward()
        if len(trees) > 1:
            trees[-1].remove(serving=False)
        trees.append(new)
    done.set()
    for looker in lookers:
        looker.join()
    assert missing == []
    assert "a" in seen and len(seen) > 2


def test_sockets_are_reached_by_whatever_name(place: Path) -> None:
    old = TreeDir.make(str(place), serving=True)
    new = TreeDir.make(str(place), serving=False)
    with socket.socket(socket.AF_UNIX) as mine, socket.socket(socket.AF_UNIX) as theirs:
        mine.bind(os.path.join(old.path, "x.sock"))
        theirs.bind(os.path.join(new.path, "x.sock"))
        mine.listen()
        theirs.listen()
        old.step_aside()
        new.step_forward()
        for directory, expected in ((str(place), theirs), (new.path, theirs), (old.path, mine)):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(os.path.join(directory, "x.sock"))
                expected.settimeout(5)
                expected.accept()[0].close()


def test_what_the_dead_have_left_is_removed_and_what_lives_is_not(place: Path) -> None:
    dead = TreeDir.make(str(place), serving=True)
    put(dead, "x.sock", "snapshot.bin")
    drains = TreeDir.make(str(place), serving=False)
    put(drains, "x.sock")
    (place / "notes.txt").write_text("somebody else's")
    (place / "c.d").mkdir()
    (place / "c.d" / "y.sock").touch()
    (place / "c").symlink_to("c.d")
    remove_all(str(place))
    fresh = TreeDir.make(str(place), serving=True)
    assert os.path.basename(fresh.path) == "a"
    assert read(drains.path, "x.sock") == "b"
    assert there(place) == {"a", "b", "b.d", "notes.txt"}
    fresh.remove(serving=True)
    drains.remove(serving=False)
    assert there(place) == {"notes.txt"}


def test_a_directory_that_cannot_be_used(place: Path) -> None:
    with pytest.raises(RuntimeDirError, match="No such file"):
        TreeDir.make(str(place / "gone"), serving=False)
    trees = [TreeDir.make(str(place), serving=False) for _ in range(26)]
    with pytest.raises(RuntimeDirError, match="26 trees use it already"):
        TreeDir.make(str(place), serving=False)
    for tree in trees:
        tree.remove(serving=False)
