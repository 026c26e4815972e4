"""Where the processes of one tree have their sockets and files, while another tree may be using the same directory.

Everybody outside looks in the runtime directory itself, and finds there what belongs to the tree that serves. The
processes of a tree know their files by a path through a link of their own, ``<runtime directory>/a`` (or b, or c ...),
which leads to the runtime directory while the tree serves, and to a directory ``a.d`` before and after that. So one
tree can take the place of another in all names at once, and each process of either finds its own tree under the same
names all its life.

    before it serves    a -> a.d       route-registry.sock and the others in a.d
    while it serves     a -> .         ... in the runtime directory
    while it drains     a -> a.d       ... in a.d again

Files go from one place to the other by hard links: at no moment is a name missing that somebody may look for.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import string

from symphony.mailbox.address import RuntimeDirError

_SUFFIXES = (".sock", ".bin")
_KEYS = string.ascii_lowercase


class TreeDir:
    """The directory of the tree that this process supervises. `path` is what its processes are told."""

    def __init__(self, runtime_dir: str, key: str) -> None:
        self.runtime_dir = runtime_dir
        self.path = os.path.join(runtime_dir, key)
        self._apart = os.path.join(runtime_dir, f"{key}.d")
        self._held = -1
        self._link = 0

    @classmethod
    def make(cls, runtime_dir: str, *, serving: bool) -> TreeDir:
        """Make one that no other tree uses, for a tree that serves or for one that is going to.

        What dead trees have left is removed first. Raises RuntimeDirError.
        """
        try:
            remove_dead(runtime_dir)
            for key in _KEYS:
                tree_dir = cls(runtime_dir, key)
                if not os.path.lexists(tree_dir.path) and not os.path.lexists(tree_dir._apart):
                    break
            else:
                raise RuntimeDirError(f"{runtime_dir}: {len(_KEYS)} trees use it already")
            if not serving:
                tree_dir._hold_apart()
            tree_dir._turn("." if serving else os.path.basename(tree_dir._apart))
        except OSError as error:
            raise RuntimeDirError(f"{runtime_dir}: {error.strerror}") from error
        return tree_dir

    def bring_along(self, name: str) -> None:
        """Have a file of the tree that serves in the place apart, too, as it is now. Raises RuntimeDirError."""
        try:
            os.link(os.path.join(self.runtime_dir, name), os.path.join(self._apart, name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise RuntimeDirError(f"{self.runtime_dir}: {name}: {error.strerror}") from error

    def step_forward(self) -> None:
        """Take the place of the tree that has stepped aside: the names in the runtime directory are ours from now on.

        Raises OSError.
        """
        # First, so that what is left of a tree that failed cannot take our names for its own and remove them.
        remove_serving(self.runtime_dir, but=self.path)
        formerly = _inodes(self.runtime_dir)
        _link_all(self._apart, self.runtime_dir)
        self._turn(".")
        # What was bound in between went to the place where nobody looks any more.
        ours = _link_all(self._apart, self.runtime_dir)
        for name, inode in formerly.items():
            if name not in ours and _inode(os.path.join(self.runtime_dir, name)) == inode:
                os.unlink(os.path.join(self.runtime_dir, name))
        self._remove_apart()

    def step_aside(self) -> None:
        """Make room for another tree; until it comes, everything is still found where it was. Raises OSError."""
        self._hold_apart()
        try:
            _link_all(self.runtime_dir, self._apart)
            self._turn(os.path.basename(self._apart))
            _link_all(self.runtime_dir, self._apart)
        except OSError:
            self._turn(".")
            self._remove_apart()
            raise

    def remove(self, *, serving: bool) -> None:
        """Remove everything of this tree; what stands in the runtime directory only if it is `serving`."""
        if serving:
            for name in _inodes(self.runtime_dir):
                os.unlink(os.path.join(self.runtime_dir, name))
        if self._held >= 0:
            self._remove_apart()
        # If this tree failed to serve, its link was taken away, and may be another's by now.
        if _inode(self.path) == self._link:
            os.unlink(self.path)

    def _hold_apart(self) -> None:
        """Make the directory for what is not served, and lock it for as long as this process lives."""
        os.mkdir(self._apart, 0o700)
        public = os.stat(self.runtime_dir)
        if public.st_mode & 0o070:  # there are workers of another user, who must find it, too
            os.chown(self._apart, -1, public.st_gid)
            os.chmod(self._apart, stat.S_IMODE(public.st_mode))
        self._held = os.open(self._apart, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._held, fcntl.LOCK_EX)

    def _remove_apart(self) -> None:
        shutil.rmtree(self._apart)
        os.close(self._held)
        self._held = -1

    def _turn(self, target: str) -> None:
        new = f"{self.path}.new"
        if os.path.lexists(new):
            os.unlink(new)
        os.symlink(target, new)
        self._link = _inode(new)
        os.rename(new, self.path)


def remove_dead(runtime_dir: str) -> None:
    """Remove the directories apart that no live process holds, and the links that lead nowhere. Raises OSError."""
    for key in _KEYS:
        apart = os.path.join(runtime_dir, f"{key}.d")
        try:
            held = os.open(apart, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(apart)
            os.unlink(os.path.join(runtime_dir, key))
        except (BlockingIOError, FileNotFoundError):
            continue
        finally:
            os.close(held)


def remove_all(runtime_dir: str) -> None:
    """Remove what a tree has left that served in `runtime_dir`, which this process has locked. Raises OSError."""
    for name in _inodes(runtime_dir):
        os.unlink(os.path.join(runtime_dir, name))
    remove_serving(runtime_dir)


def remove_serving(runtime_dir: str, but: str = "") -> None:
    """Remove the links of trees that served and are gone without a word. Raises OSError."""
    for key in _KEYS:
        link = os.path.join(runtime_dir, key)
        if link != but and os.path.islink(link) and os.readlink(link) == ".":
            os.unlink(link)


def _inodes(directory: str) -> dict[str, int]:
    """The files that belong to trees, mailboxes and snapshots, with their inode numbers."""
    with os.scandir(directory) as entries:
        return {entry.name: entry.inode() for entry in entries if entry.name.endswith(_SUFFIXES)}


def _inode(path: str) -> int:
    try:
        return os.lstat(path).st_ino
    except FileNotFoundError:
        return 0


def _link_all(source: str, target: str) -> dict[str, int]:
    """Give every file in `source` the same name in `target`, in the place of what has that name there."""
    files = _inodes(source)
    for name, inode in files.items():
        place = os.path.join(target, name)
        if _inode(place) == inode:
            continue
        new = os.path.join(target, f".{name}.new")
        try:
            os.link(os.path.join(source, name), new, follow_symlinks=False)
        except FileNotFoundError:
            continue  # its process has ended just now
        os.rename(new, place)
    return files
