from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from symphony.mailbox.address import (
    LONGEST_SOCKET_PATH,
    MailboxPathError,
    RuntimeDirBusy,
    RuntimeDirError,
    RuntimeLock,
    check_runtime_dir,
    live_pid,
    mailbox_path,
    peer_credentials,
    prepare_runtime_dir,
)
from tests.support.loops import descriptors


@pytest.fixture
def base() -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="sy", dir="/tmp")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def runtime_dir(base: str) -> str:
    path = os.path.join(base, "run")
    prepare_runtime_dir(path)
    return path


def mode(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@contextmanager
def holder(runtime_dir: str) -> Iterator[int]:
    """Another process that holds the lock; SIGKILLed at the end at the latest."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            RuntimeLock(runtime_dir).acquire()
            os.write(writes, b"x")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(writes)
    try:
        assert os.read(reads, 1) == b"x"
        yield pid
    finally:
        os.close(reads)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_mailbox_path() -> None:
    assert mailbox_path("/run/symphony", "acceptor-0") == "/run/symphony/acceptor-0.sock"


def test_the_longest_path_can_be_bound_and_one_byte_more_is_refused(base: str) -> None:
    name = "x" * (LONGEST_SOCKET_PATH - len(base) - len("/.sock"))
    path = mailbox_path(base, name)
    assert len(path) == LONGEST_SOCKET_PATH
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    with pytest.raises(MailboxPathError, match="108 bytes, a socket path has at most 107"):
        mailbox_path(base, name + "x")


def test_a_path_is_measured_in_bytes(base: str) -> None:
    with pytest.raises(MailboxPathError):
        mailbox_path(base, "ü" * ((LONGEST_SOCKET_PATH - len(base)) // 2))


@pytest.mark.parametrize("name", ["", "a/b", "../x", "nul\0"])
def test_names_that_are_no_file_names(name: str) -> None:
    with pytest.raises(MailboxPathError, match="not a mailbox name"):
        mailbox_path("/run/symphony", name)


def test_peer_credentials() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_credentials(ours) == (os.getpid(), os.geteuid())


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_the_directory_is_made_private(base: str, umask: int) -> None:
    path = os.path.join(base, "run")
    before = os.umask(umask)
    try:
        prepare_runtime_dir(path)
    finally:
        os.umask(before)
    assert mode(path) == 0o700
    prepare_runtime_dir(path)
    check_runtime_dir(path)


def test_missing_parents_are_made(base: str) -> None:
    path = os.path.join(base, "a", "b", "run")
    prepare_runtime_dir(path)
    assert mode(path) == 0o700


def test_a_directory_that_is_not_there(base: str) -> None:
    with pytest.raises(RuntimeDirError, match=r"/none: No such file or directory$"):
        check_runtime_dir(os.path.join(base, "none"))


@pytest.mark.parametrize("bits", [0o701, 0o710, 0o704, 0o777])
def test_a_directory_that_others_may_enter_is_refused(base: str, bits: int) -> None:
    path = os.path.join(base, "run")
    os.mkdir(path)
    os.chmod(path, bits)
    with pytest.raises(RuntimeDirError, match=f"has mode {bits:04o}, expected 0700"):
        prepare_runtime_dir(path)
    assert mode(path) == bits


@pytest.mark.parametrize("ending", ["", "/", "/."])
def test_a_link_is_refused_however_it_is_written(base: str, ending: str) -> None:
    target, link = os.path.join(base, "target"), os.path.join(base, "link")
    os.mkdir(target, 0o700)
    os.symlink(target, link)
    with pytest.raises(RuntimeDirError, match="is a symbolic link"):
        prepare_runtime_dir(link + ending)
    with pytest.raises(RuntimeDirError, match="is a symbolic link"):
        check_runtime_dir(link + ending)


def test_a_link_to_nowhere_is_refused(base: str) -> None:
    os.symlink(os.path.join(base, "nowhere"), os.path.join(base, "link"))
    with pytest.raises(RuntimeDirError, match="is a symbolic link"):
        prepare_runtime_dir(os.path.join(base, "link"))
    assert os.listdir(base) == ["link"]


def test_a_file_is_refused(base: str) -> None:
    path = os.path.join(base, "file")
    with open(path, "w"):
        pass
    with pytest.raises(RuntimeDirError, match="is not a directory"):
        prepare_runtime_dir(path)
    with pytest.raises(RuntimeDirError, match="/file/run: Not a directory"):
        prepare_runtime_dir(os.path.join(path, "run"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(runtime_dir: str) -> None:
    os.chown(runtime_dir, 65534, 65534)
    with pytest.raises(RuntimeDirError, match=f"belongs to user 65534, expected {os.geteuid()}"):
        prepare_runtime_dir(runtime_dir)


def test_a_place_where_nothing_may_be_made(base: str) -> None:
    os.chmod(base, 0o500)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)  # root may write anywhere
            prepare_runtime_dir(os.path.join(base, "run"))
        except RuntimeDirError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    os.chmod(base, 0o700)
    assert "cannot be made: Permission denied" in said


def test_errors_are_one_line(base: str) -> None:
    os.symlink(base, os.path.join(base, "link"))
    with pytest.raises(RuntimeDirError) as caught:
        prepare_runtime_dir(os.path.join(base, "link"))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(os.path.join(base, "link") + ": ")


def test_a_held_directory_is_refused_with_the_pid_of_its_holder(runtime_dir: str) -> None:
    with holder(runtime_dir) as pid:
        assert live_pid(runtime_dir) == pid
        before = descriptors()
        with pytest.raises(RuntimeDirBusy, match=f"already in use by process {pid}") as caught:
            RuntimeLock(runtime_dir).acquire()
        assert caught.value.pid == pid
        assert live_pid(runtime_dir) == pid
        assert descriptors() == before
    # Killed: nothing was cleaned up, and yet nothing is in the way.
    assert live_pid(runtime_dir) is None
    lock = RuntimeLock(runtime_dir)
    lock.acquire()
    assert live_pid(runtime_dir) == os.getpid()
    lock.release()


def test_a_released_directory_can_be_taken_again(runtime_dir: str) -> None:
    before = descriptors()
    lock = RuntimeLock(runtime_dir)
    assert lock.fileno() == -1
    for _ in range(3):
        lock.acquire()
        assert lock.fileno() >= 0
        assert mode(os.path.join(runtime_dir, "lock")) == 0o600
        assert live_pid(runtime_dir) == os.getpid()
        lock.release()
        lock.release()
        assert live_pid(runtime_dir) is None
    assert descriptors() == before


def test_two_locks_in_one_process_exclude_each_other(runtime_dir: str) -> None:
    first, second = RuntimeLock(runtime_dir), RuntimeLock(runtime_dir)
    first.acquire()
    with pytest.raises(RuntimeDirBusy):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_nobody_lives_where_there_is_nothing(base: str, runtime_dir: str) -> None:
    assert live_pid(runtime_dir) is None
    assert live_pid(os.path.join(base, "none")) is None
    assert os.listdir(runtime_dir) == []


def test_the_lock_is_no_link(base: str, runtime_dir: str) -> None:
    victim = os.path.join(base, "victim")
    with open(victim, "w") as file:
        file.write("precious")
    os.symlink(victim, os.path.join(runtime_dir, "lock"))
    with pytest.raises(RuntimeDirError, match="cannot be opened"):
        RuntimeLock(runtime_dir).acquire()
    with pytest.raises(RuntimeDirError, match="cannot be read"):
        live_pid(runtime_dir)
    with open(victim) as file:
        assert file.read() == "precious"


def test_a_child_that_releases_its_copy_leaves_the_parent_the_lock(runtime_dir: str) -> None:
    lock = RuntimeLock(runtime_dir)
    lock.acquire()
    try:
        pid = os.fork()
        if pid == 0:
            try:
                lock.release()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert live_pid(runtime_dir) == os.getpid()
        with pytest.raises(RuntimeDirBusy):
            RuntimeLock(runtime_dir).acquire()
    finally:
        lock.release()


def test_a_look_that_has_just_begun_is_waited_for(runtime_dir: str) -> None:
    lock = RuntimeLock(runtime_dir)
    lock.acquire()
    lock.release()
    fd = os.open(os.path.join(runtime_dir, "lock"), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    timer = threading.Timer(0.02, os.close, [fd])
    timer.start()
    try:
        lock.acquire()
        lock.release()
    finally:
        timer.join()


def test_a_lock_that_is_inherited_is_never_free_and_tells_who_claimed_it(runtime_dir: str) -> None:
    lock = RuntimeLock(runtime_dir)
    lock.acquire()
    copy = os.dup(lock.fileno())
    os.set_inheritable(copy, True)
    inherited = RuntimeLock.inherited(runtime_dir, copy)
    assert not os.get_inheritable(copy)
    lock.part_with()
    assert not lock.held
    with pytest.raises(RuntimeDirBusy):
        RuntimeLock(runtime_dir).acquire()
    Path(runtime_dir, "lock").write_text(f"{2**31}\n" + " " * 20)
    assert live_pid(runtime_dir) == 2**31
    inherited.claim()
    assert live_pid(runtime_dir) == os.getpid()
    inherited.release()
    assert live_pid(runtime_dir) is None


def test_something_else_is_not_inherited_as_a_lock(runtime_dir: str) -> None:
    lock = RuntimeLock(runtime_dir)
    lock.acquire()
    with open(os.devnull) as other, pytest.raises(RuntimeDirError, match="is not what was inherited"):
        RuntimeLock.inherited(runtime_dir, other.fileno())
    with pytest.raises(RuntimeDirError, match="cannot be inherited"):
        RuntimeLock.inherited(runtime_dir, 999_999)
    lock.release()
