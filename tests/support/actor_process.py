"""One real actor in a process of its own, with the test in the supervisor's place at the other end of its lifeline."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from symphony.mailbox.address import mailbox_path, prepare_runtime_dir
from symphony.mailbox.framing import FrameDecoder
from symphony.mailbox.lifeline import (
    MAX_LIFELINE_FRAME,
    ChildBeat,
    ChildFailed,
    ChildMessage,
    ChildReady,
    SiblingDown,
    SiblingUp,
    StopChild,
    decode_child,
    encode_lifeline,
)
from symphony.observe.logs import configure_logging

LIMIT_S = 20.0


@dataclass(frozen=True)
class Birth:
    name: str
    incarnation: int
    lifeline: socket.socket

    def confine(self) -> None:
        """Give up nothing: who tests an actor wants to look into it."""


class ActorProcess:
    """A forked child that runs `run(birth)`. Its log goes to `log_path`, as JSON lines."""

    def __init__(self, name: str, run: Callable[[Birth], None], incarnation: int, log_path: str) -> None:
        self.name = name
        self.log_path = log_path
        self.lifeline, child_end = socket.socketpair()
        self.lifeline.settimeout(LIMIT_S)
        self._frames = FrameDecoder(MAX_LIFELINE_FRAME)
        self._messages: list[ChildMessage] = []
        self.exit_code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                self.lifeline.close()
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
                    signal.signal(number, signal.SIG_DFL)
                with open(log_path, "a") as log:
                    configure_logging("json", "debug", log)
                    code = self._run_child(run, Birth(name, incarnation, child_end), log_path)
            finally:
                os._exit(code)
        child_end.close()

    @staticmethod
    def _run_child(run: Callable[[Birth], None], birth: Birth, log_path: str) -> int:
        try:
            run(birth)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001 - it ends the process
            with open(log_path, "a") as log:
                traceback.print_exc(file=log)
            return 1
        return 0

    def next_message(self) -> ChildMessage | None:
        """Return the next thing the child says, None when its end is closed."""
        while not self._messages:
            data = self.lifeline.recv(65536)
            if not data:
                return None
            self._messages += [decode_child(payload) for payload in self._frames.feed(data)]
        return self._messages.pop(0)

    def wait_ready(self) -> None:
        while not isinstance(message := self.next_message(), ChildReady):
            assert isinstance(message, ChildBeat), f"{self.name}: {message} instead of ready\n{self.log()}"

    def wait_failed(self) -> str:
        while not isinstance(message := self.next_message(), ChildFailed):
            assert isinstance(message, ChildBeat), f"{self.name}: {message} instead of failed\n{self.log()}"
        return message.reason

    def wait_beat(self) -> ChildBeat:
        while not isinstance(message := self.next_message(), ChildBeat):
            assert message is not None, f"{self.name}: gone\n{self.log()}"
        return message

    def ask_to_stop(self, grace: float) -> None:
        self.lifeline.sendall(encode_lifeline(StopChild(grace)))

    def tell_sibling(self, name: str, up: bool) -> None:
        self.lifeline.sendall(encode_lifeline(SiblingUp(name) if up else SiblingDown(name, "killed")))

    def orphan(self) -> None:
        """Be gone, as a supervisor that was killed."""
        self.lifeline.close()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait_exit(self, limit_s: float = LIMIT_S) -> int:
        """Return the exit code, negative for a signal."""
        deadline = time.monotonic() + limit_s
        while self.exit_code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.exit_code = os.waitstatus_to_exitcode(status)
                break
            assert time.monotonic() < deadline, f"{self.name}: does not end\n{self.log()}"
            time.sleep(0.005)
        return self.exit_code

    def kill(self) -> None:
        """SIGKILL, also when stopped, and wait until it is gone."""
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait_exit()

    def log(self) -> str:
        with open(self.log_path) as file:
            return file.read()


class Stage:
    """A private runtime directory and the actors started in it; all gone at the end of the ``with`` block."""

    def __init__(self) -> None:
        self._base = tempfile.mkdtemp(prefix="sy", dir="/tmp")
        self.runtime_dir = os.path.join(self._base, "run")
        self._actors: list[ActorProcess] = []

    def __enter__(self) -> Stage:
        prepare_runtime_dir(self.runtime_dir)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in self._actors:
            actor.kill()
            actor.lifeline.close()
        shutil.rmtree(self._base)

    def file(self, name: str) -> str:
        """A path outside of the runtime directory, for configuration files and the like."""
        return os.path.join(self._base, name)

    def mailbox(self, name: str) -> str:
        return mailbox_path(self.runtime_dir, name)

    def start(
        self,
        name: str,
        run: Callable[[Any, Any], None],
        settings: object,
        *,
        incarnation: int = 1,
        ready: bool = True,
    ) -> ActorProcess:
        """Start `run(birth, settings)` in a process of its own and wait until it is ready."""
        actor = ActorProcess(name, lambda birth: run(birth, settings), incarnation, self.file(f"{name}.log"))
        self._actors.append(actor)
        if ready:
            actor.wait_ready()
        return actor
