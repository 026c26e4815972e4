"""Where mailboxes are: one private runtime directory per running tree, one socket in it per actor.

Whoever can open the directory can send messages to every actor, so it belongs to one user and to nobody else.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
import time

LONGEST_SOCKET_PATH = 107
"""Bytes that fit in sockaddr_un.sun_path before its closing zero (unix(7))."""

_LOCK_NAME = "lock"
_OPEN_TO_GROUP = 0o750
_PID_SIZE = 32
_UCRED = struct.Struct("3i")


class MailboxPathError(ValueError):
    """A mailbox name that cannot be a file name, or a path too long to bind."""


class RuntimeDirError(Exception):
    """The runtime directory cannot be used; the text is one line that says which one and why."""


class RuntimeDirBusy(RuntimeDirError):
    """Another tree lives in the runtime directory; `pid` is its supervisor."""

    def __init__(self, path: str, pid: int) -> None:
        super().__init__(f"{path}: already in use by process {pid}")
        self.pid = pid


def mailbox_path(runtime_dir: str, name: str) -> str:
    """Return the socket path of the actor `name`.

    :raises MailboxPathError: `name` is empty or has a slash, or the path is longer than a socket path may be.
    """
    if not name or "/" in name or "\0" in name:
        raise MailboxPathError(f"not a mailbox name: {name!r}")
    path = os.path.join(runtime_dir, f"{name}.sock")
    size = len(os.fsencode(path))
    if size > LONGEST_SOCKET_PATH:
        raise MailboxPathError(
            f"{path}: {size} bytes, a socket path has at most {LONGEST_SOCKET_PATH}; choose a shorter runtime directory"
        )
    return path


def peer_credentials(sock: socket.socket) -> tuple[int, int]:
    """Return (pid, uid) of the process at the other end of a connected Unix socket (SO_PEERCRED, unix(7))."""
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def open_to_group(path: str, gid: int) -> None:
    """Let a group enter and list the runtime directory; nothing in it becomes theirs to write.

    :raises RuntimeDirError: it cannot be done.
    """
    try:
        os.chown(path, -1, gid)
        os.chmod(path, _OPEN_TO_GROUP)
    except OSError as error:
        raise RuntimeDirError(f"{path}: cannot be opened to group {gid}: {error.strerror}") from error


def prepare_runtime_dir(path: str) -> None:
    """Make the directory with mode 0700 (and missing parents with the usual mode), or check the one that is there.

    One that an earlier instance has opened to a group is closed again.

    :raises RuntimeDirError: it cannot be made, is no directory but say a link, belongs to another user, or others
        may enter it.
    """
    # lstat() follows a link whose path ends in a slash.
    path = os.path.abspath(path)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mkdir(path, 0o700)
    except FileExistsError:
        _close_to_group(path)
    except OSError as error:
        raise RuntimeDirError(f"{path}: cannot be made: {error.strerror}") from error
    check_runtime_dir(path)


def _close_to_group(path: str) -> None:
    try:
        found = os.lstat(path)
    except OSError:
        return  # the check that follows says what is wrong
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if ours and stat.S_IMODE(found.st_mode) == _OPEN_TO_GROUP:
        os.chmod(path, 0o700)


def check_runtime_dir(path: str) -> None:
    """Check that the directory is there, ours, and closed to others but a group that may look into it.

    :raises RuntimeDirError: it is not.
    """
    path = os.path.abspath(path)
    try:
        found = os.lstat(path)
    except OSError as error:
        raise RuntimeDirError(f"{path}: {error.strerror}") from error
    if stat.S_ISLNK(found.st_mode):
        raise RuntimeDirError(f"{path}: is a symbolic link, expected a directory")
    if not stat.S_ISDIR(found.st_mode):
        raise RuntimeDirError(f"{path}: is not a directory")
    if found.st_uid != os.geteuid():
        raise RuntimeDirError(f"{path}: belongs to user {found.st_uid}, expected {os.geteuid()}")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077 and mode != _OPEN_TO_GROUP:
        raise RuntimeDirError(f"{path}: has mode {mode:04o}, expected 0700 (others may not enter it)")


class RuntimeLock:
    """One tree per runtime directory: an exclusive flock(2) on ``<dir>/lock``, whose text is the holder's pid.

    The kernel lets go of the lock when the last copy of the descriptor is closed, so a child that inherits it must
    close it (see :meth:`fileno`): otherwise an orphan would keep the directory of a dead supervisor. The file is
    never unlinked, since two processes could then hold locks on two files of the same name.

    A supervisor that another one is to take over from lets it inherit the descriptor: the lock is then both processes',
    and never free in between. Whose pid is in the file is the one that commands speak to (:meth:`claim`).
    """

    def __init__(self, runtime_dir: str) -> None:
        self._dir = runtime_dir
        self._path = os.path.join(runtime_dir, _LOCK_NAME)
        self._fd = -1
        self._owner = 0

    @classmethod
    def inherited(cls, runtime_dir: str, fd: int) -> RuntimeLock:
        """The lock of another process on `runtime_dir`, whose descriptor this one was started with.

        :raises RuntimeDirError: `fd` is not that lock.
        """
        lock = cls(runtime_dir)
        try:
            os.set_inheritable(fd, False)
            held, there = os.fstat(fd), os.stat(lock._path)
            if (held.st_dev, held.st_ino) != (there.st_dev, there.st_ino):
                raise RuntimeDirError(f"{lock._path}: is not what was inherited")
        except OSError as error:
            raise RuntimeDirError(f"{lock._path}: cannot be inherited: {error.strerror}") from error
        lock._fd, lock._owner = fd, os.getpid()
        return lock

    def acquire(self) -> None:
        """Take the directory.

        :raises RuntimeDirBusy: a live process has it.
        :raises RuntimeDirError: the lock file cannot be opened.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise RuntimeDirError(f"{self._path}: cannot be opened: {error.strerror}") from error
        try:
            if not _lock(fd):
                raise RuntimeDirBusy(self._dir, _read_pid(fd))
            _write_pid(fd)
        except OSError as error:
            os.close(fd)
            raise RuntimeDirError(f"{self._path}: cannot be locked: {error.strerror}") from error
        except BaseException:
            os.close(fd)
            raise
        self._fd, self._owner = fd, os.getpid()

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._fd >= 0

    def claim(self) -> None:
        """Make this process the one that is found in the directory. :raises OSError: the file cannot be written."""
        _write_pid(self._fd)

    def part_with(self) -> None:
        """Leave the lock to the process that has inherited it."""
        os.close(self._fd)
        self._fd = -1

    def fileno(self) -> int:
        """Return the descriptor that a forked child must close; -1 when not held."""
        return self._fd

    def release(self) -> None:
        """Let go, or in a forked child close the inherited copy, which leaves the parent its lock."""
        if self._fd < 0:
            return
        if self._owner == os.getpid():
            os.ftruncate(self._fd, 0)
        # Closing rather than LOCK_UN: unlocking a shared descriptor in a child would unlock the parent's too.
        os.close(self._fd)
        self._fd = -1


def live_pid(runtime_dir: str) -> int | None:
    """Return the pid of the process that holds the runtime directory, None when none does.

    :raises RuntimeDirError: the lock file is there but cannot be read.
    """
    path = os.path.join(runtime_dir, _LOCK_NAME)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RuntimeDirError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_pid(fd) or None
    else:
        return None
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    """Take the lock; False when it is held for longer than :func:`live_pid` holds it to look."""
    for _ in range(20):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.005)
        else:
            return True
    return False


def _write_pid(fd: int) -> None:
    # In one piece, so that nobody reads half of one and half of another; the blanks cover a longer one.
    os.pwrite(fd, b"%-*d\n" % (_PID_SIZE - 1, os.getpid()), 0)


def _read_pid(fd: int) -> int:
    """Read the holder's pid; 0 when the holder has not said it within 0.1 s."""
    for _ in range(20):
        text = os.pread(fd, _PID_SIZE, 0).strip()
        if text.isdigit():
            return int(text)
        # The holder has the lock and is about to write: two system calls apart.
        time.sleep(0.005)
    return 0
