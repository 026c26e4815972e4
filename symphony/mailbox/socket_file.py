"""Unix sockets by their files: who may connect, and that one which is another's is let alone."""

from __future__ import annotations

import os
import socket
import stat

from symphony.mailbox.peers import workers


class SocketFile:
    """What stands at `path` now. A successor may put a socket of its own there: that one must stay."""

    def __init__(self, path: str) -> None:
        """Raises OSError when nothing stands there."""
        self._path = path
        found = os.lstat(path)
        self._identity = found.st_dev, found.st_ino

    def unlink(self) -> None:
        """Remove it, unless another one has taken its place."""
        try:
            found = os.lstat(self._path)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self._path)
        except (FileNotFoundError, PermissionError):
            pass  # a worker may not; its successor or the supervisor will


def bind_socket(path: str, *, for_workers: bool) -> socket.socket:
    """Return a socket bound to `path` that only its owner may connect to, and workers where it is `for_workers`.

    One that an earlier process left at `path` is replaced. Raises OSError, also when something else stands there.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(f"{path}: is not a socket, not replaced")
        os.unlink(path)
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # On Linux bind() gives the file the mode of the socket: at no moment is it open to others.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(path)
        others = workers()
        if for_workers and others is not None and others.owner == os.geteuid():
            os.chown(path, -1, others.gid)
            os.chmod(path, 0o660)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
