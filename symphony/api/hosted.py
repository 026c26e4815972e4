"""A tree that belongs to a program: ``symphony run`` as its child, which ends when the program does.

The two ends of a socket pair hold them together: the tree says ``ready`` on it, and its end is what the tree waits
for besides its signals. So it ends with a program that was killed, too. The program's process is not forked: nothing
is known of its threads.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import msgspec

from symphony.api.errors import ReloadFailed, StartFailed
from symphony.api.reload import request_reload
from symphony.config.problem import ConfigError, Severity
from symphony.config.resolve import load

READY_WITHIN_S = 60.0
RELOAD_WITHIN_S = 180.0
STOP_MARGIN_S = 5.0
_TAIL = 2000


class HostedTree:
    """A runtime directory of its own, the configuration in it, and the process."""

    def __init__(self, log_level: str) -> None:
        self._log_level = log_level
        self.directory = tempfile.mkdtemp(prefix="symphony-")  # mode 0700: there are keys in it
        self.config_file = os.path.join(self.directory, "config.json")
        self.runtime_dir = os.path.join(self.directory, "run")
        self.log_file = os.path.join(self.directory, "log")
        self._process: asyncio.subprocess.Process | None = None
        self._tie: socket.socket | None = None

    @property
    def pid(self) -> int:
        """The supervisor's process id; 0 before the start."""
        return self._process.pid if self._process is not None else 0

    def check(self, document: Mapping[str, Any]) -> bytes:
        """Return the content of a configuration file that says `document`. Raises ConfigError with every finding."""
        content = msgspec.json.encode(document)
        candidate = os.path.join(self.directory, "candidate.json")
        _write(candidate, content)
        try:
            load(candidate).require()
        finally:
            os.unlink(candidate)
        return content

    def replace_config(self, content: bytes) -> bytes:
        """Put `content` in the place of the configuration, at one go; return what was there (b"" for nothing)."""
        before = b""
        if os.path.exists(self.config_file):
            with open(self.config_file, "rb") as file:
                before = file.read()
        new = f"{self.config_file}.new"
        _write(new, content)
        os.rename(new, self.config_file)
        return before

    async def reconfigure(self, document: Mapping[str, Any]) -> int:
        """Bring `document` into force, and return its version; where that fails, the configuration before it is.

        Raises ConfigError with every finding, and :class:`ReloadFailed`.
        """
        before = self.replace_config(await asyncio.to_thread(self.check, document))
        done = await request_reload(self.runtime_dir, RELOAD_WITHIN_S)
        errors = [problem for problem in done.problems if problem.severity is Severity.ERROR]
        if errors or done.failure:
            self.replace_config(before)
            await request_reload(self.runtime_dir, RELOAD_WITHIN_S)
            if errors:
                raise ConfigError("", errors)
            raise ReloadFailed(done.failure)
        return done.version

    async def start(self) -> None:
        """Start the process and wait until it serves. Raises :class:`StartFailed`."""
        own, theirs = socket.socketpair()
        own.setblocking(False)
        self._tie = own
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "symphony",
                "run",
                "-c",
                self.config_file,
                "--runtime-dir",
                self.runtime_dir,
                "--log-level",
                self._log_level,
                "--log-file",
                self.log_file,
                "--no-watch",
                "--tied-to",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C in the program's terminal is the program's
            )
        finally:
            theirs.close()
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                said = await asyncio.get_running_loop().sock_recv(own, 16)
        except (TimeoutError, ConnectionError):
            said = b""
        if not said:
            await self.stop(0.0)
            raise StartFailed(self._last_words())

    async def wait(self) -> int:
        """Wait for the process's end; return its exit code."""
        assert self._process is not None, "not started"
        return await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """End the tree within `grace_s` seconds and a little, and wait for it."""
        if self._tie is not None:
            self._tie.close()
            self._tie = None
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            async with asyncio.timeout(grace_s + STOP_MARGIN_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def remove(self) -> None:
        """Remove the directory, keys and all."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _last_words(self) -> str:
        try:
            with open(self.log_file, errors="replace") as file:
                return file.read()[-_TAIL:].strip() or "it said nothing"
        except OSError:
            return "it said nothing"


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
