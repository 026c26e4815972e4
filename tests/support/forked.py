"""A function in a process of its own, for what cannot be undone: limits, privileges, users."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

from symphony.config.model import UdsUpstream
from tests.support.loops import eventually


def in_child(function: Callable[[], Any]) -> Any:
    """What `function` returns in a forked process; AssertionError with its traceback when it raises."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.close(reading)
            try:
                answer = (True, function())
            except BaseException:  # noqa: BLE001 - told to the test
                answer = (False, traceback.format_exc())
            with open(writing, "wb") as pipe:
                pickle.dump(answer, pipe)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as pipe:
        content = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0, "the child died"
    succeeded, value = pickle.loads(content)
    assert succeeded, value
    return value


async def exit_code(pid: int) -> int:
    """Wait for a child without stopping the loop, which it may be waiting for; kill it when it does not end."""
    status: list[int] = []

    def ended() -> bool:
        found, wait_status = os.waitpid(pid, os.WNOHANG)
        if found:
            status.append(wait_status)
        return bool(found)

    try:
        await eventually(ended, "the child to end")
    except BaseException:
        end(pid)
        raise
    return os.waitstatus_to_exitcode(status[0])


def end(pid: int) -> None:
    """Kill a child, and wait for it."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class ForkedService:
    """Has a process of its own `serve` what connects to a Unix socket, until it is closed."""

    def __init__(self, serve: Callable[[socket.socket], None], backlog: int) -> None:
        self._directory = tempfile.mkdtemp(prefix="sy", dir="/tmp")
        self.path = os.path.join(self._directory, "up")
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self.path)
        listening.listen(backlog)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_DFL)
                serve(listening)
            finally:
                os._exit(0)
        listening.close()

    @property
    def upstream(self) -> UdsUpstream:
        """As a route names it."""
        return UdsUpstream(path=self.path)

    def close(self) -> None:
        """End the process and remove the socket."""
        end(self._pid)
        shutil.rmtree(self._directory)
