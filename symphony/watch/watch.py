"""Notices when files that were read have changed, however that is done to them.

Events of the kernel are only a reason to look; what decides is whether a file would read differently now. So it does
not matter which tool writes a file and how: in place, by a rename over it, or by turning a link on the way to it, as
Kubernetes and certbot do. Where events do not come (network file systems, no inotify to be had) a look now and then
finds the change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from structlog import get_logger

from symphony.watch.files import SeenFile, look_again
from symphony.watch.inotify import Inotify
from symphony.watch.lookup import entries

QUIET_S = 0.2
"""How long nothing may change before what has changed is looked at: tools write several files one after the other."""
LONGEST_S = 2.0
"""How long a file that is written all the time may put that off."""
LOOK_EVERY_S = 10.0

log = get_logger("watch")


class FileWatch:
    """Watches the files given to :meth:`follow`. Needs a running event loop, and is used in its thread only."""

    def __init__(self, *, quiet_s: float = QUIET_S, look_every_s: float = LOOK_EVERY_S) -> None:
        self._quiet_s = quiet_s
        self._look_every_s = look_every_s
        self._loop = asyncio.get_running_loop()
        self._files: tuple[SeenFile, ...] = ()
        self._round = 0
        self._names: dict[int, set[str]] = {}
        self._stirred = asyncio.Event()
        self._stirred_at = 0.0
        self._complained = False
        self._inotify: Inotify | None = None
        try:
            self._inotify = Inotify()
        except OSError as error:
            self._complain(error)
        else:
            self._loop.add_reader(self._inotify.fd, self._take_events)

    def follow(self, files: Iterable[SeenFile]) -> None:
        """Watch `files`, as they were read, and no others."""
        self._files = tuple(files)
        self._round += 1
        self._stir()

    async def changed(self) -> None:
        """Wait until one of the files is different from what was read."""
        while True:
            await self._pause()
            files, round = self._files, self._round
            names, same = await asyncio.to_thread(self._look, files)
            self._adopt(names)
            if round != self._round:
                continue  # they have been read again meanwhile
            if same is None:
                return
            self._files = same

    def close(self) -> None:
        """Watch nothing any more."""
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None

    async def _pause(self) -> None:
        """Wait until something stirs, or for long enough; then until it is quiet again."""
        try:
            await asyncio.wait_for(self._stirred.wait(), self._look_every_s)
        except TimeoutError:
            return
        began = self._loop.time()
        while True:
            quiet_at = min(self._stirred_at + self._quiet_s, began + LONGEST_S)
            rest = quiet_at - self._loop.time()
            if rest <= 0:
                break
            await asyncio.sleep(rest)
        self._stirred.clear()

    def _stir(self) -> None:
        self._stirred_at = self._loop.time()
        self._stirred.set()

    def _take_events(self) -> None:
        assert self._inotify is not None, "a closed one is not watched"
        for number, name in self._inotify.read():
            # Of an unknown directory: its watch is being set up or taken down in this moment.
            names = self._names.get(number)
            if names is None or name in names or not name:
                self._stir()

    def _look(self, files: tuple[SeenFile, ...]) -> tuple[dict[int, set[str]], tuple[SeenFile, ...] | None]:
        """Watch the directories that count now, and only then look at the files. Runs in a thread."""
        names = self._arrange(files)
        same = []
        for seen in files:
            now = look_again(seen)
            if now is None:
                return names, None
            same.append(now)
        return names, tuple(same)

    def _arrange(self, files: tuple[SeenFile, ...]) -> dict[int, set[str]]:
        names: dict[int, set[str]] = {}
        inotify = self._inotify
        if inotify is None:
            return names
        for directory, found in entries(seen.path for seen in files).items():
            try:
                number = inotify.add(directory)
            except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError):
                continue  # its parent tells when it comes; what may not be read is looked at now and then
            except OSError as error:
                self._complain(error)
                break
            names.setdefault(number, set()).update(found)
        return names

    def _adopt(self, names: dict[int, set[str]]) -> None:
        if self._inotify is not None:
            for number in self._names.keys() - names.keys():
                self._inotify.remove(number)
        self._names = names

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            log.warning(
                "changes_noticed_late",
                error=error.strerror,
                within_s=self._look_every_s,
                advice="raise fs.inotify.max_user_instances and fs.inotify.max_user_watches",
            )
