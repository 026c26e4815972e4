"""The last good snapshot on disk, so that a registry which starts again goes on where the last one was.

The file holds private keys: it is made with mode 0600 in the runtime directory, and a file that others could have
written or read is not taken. It replaces its predecessor by a rename, so that a reader sees the old one or the new
one and never half of one. It is not forced to the disk: it has to outlive processes, and not the machine.
"""

from __future__ import annotations

import os
import stat

import msgspec
from msgspec import Struct

from symphony.config.snapshot import Snapshot

FILE_NAME = "snapshot.bin"
_FORMAT = 1


class SnapshotStoreError(Exception):
    """The snapshot could not be kept, or what is kept cannot be used; the text is one line that says why."""


class StoredSnapshot(Struct, frozen=True, array_like=True):
    """A snapshot, the configuration file (absolute path) it was made from, and the pid of the supervisor whose
    tree served it (0: not known)."""

    source: str
    snapshot: Snapshot
    tree: int = 0


class _File(Struct, frozen=True, array_like=True):
    format: int
    content: msgspec.Raw


class SnapshotStore:
    """Keeps one snapshot in `directory`."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, FILE_NAME)
        self._new_path = f"{self.path}.new"
        self._owner = os.geteuid()
        self._held: int | None = None

    def save(self, stored: StoredSnapshot) -> None:
        """Replace what is kept. Raises :class:`SnapshotStoreError`; what was kept is then still there."""
        encode = msgspec.msgpack.encode
        content = encode(_File(_FORMAT, msgspec.Raw(encode(stored))))
        try:
            self._remove_unfinished()
            fd = os.open(self._new_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(content)
            os.rename(self._new_path, self.path)
        except OSError as error:
            raise SnapshotStoreError(f"{self.path}: cannot be written: {error.strerror}") from error

    def load(self) -> StoredSnapshot | None:
        """Return what is kept, None when nothing is. Raises :class:`SnapshotStoreError`."""
        held, self._held = self._held, None
        try:
            fd = self._open() if held is None or os.geteuid() == self._owner else held
            if held is not None and fd != held:
                os.close(held)
            with open(fd, "rb") as file:
                self._check(os.fstat(fd))
                content = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SnapshotStoreError(f"{self.path}: cannot be read: {error.strerror}") from error
        try:
            found = msgspec.msgpack.decode(content, type=_File)
            if found.format != _FORMAT:
                raise SnapshotStoreError(f"{self.path}: format {found.format}, expected {_FORMAT}")
            return msgspec.msgpack.decode(found.content, type=StoredSnapshot)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SnapshotStoreError(f"{self.path}: not a snapshot: {error}") from error

    def hold(self) -> None:
        """Open the file, if there is one, for :meth:`load` by who may not open it then: it loads what is there now.

        Raises :class:`SnapshotStoreError`.
        """
        try:
            self._held = self._open()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SnapshotStoreError(f"{self.path}: cannot be read: {error.strerror}") from error

    def _open(self) -> int:
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)

    def _remove_unfinished(self) -> None:
        try:
            os.unlink(self._new_path)
        except FileNotFoundError:
            pass

    def _check(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise SnapshotStoreError(f"{self.path}: is not a regular file")
        if found.st_uid != self._owner:
            raise SnapshotStoreError(f"{self.path}: belongs to user {found.st_uid}, expected {self._owner}")
        if found.st_mode & 0o077:
            raise SnapshotStoreError(
                f"{self.path}: has mode {stat.S_IMODE(found.st_mode):04o}, expected 0600"
            )
