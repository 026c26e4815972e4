"""A real ``symphony run`` for end-to-end tests: started in a fresh directory, ready when it is handed out.

    with running_symphony(config_text, files={"cert.pem": pem}) as symphony:
        port = symphony.port()
        os.kill(symphony.pid_of("acceptor-0"), signal.SIGKILL)
        symphony.wait_for(lambda status: actor(status, "acceptor-0").restarts == 1)

Ports are best configured as 0 and read from :meth:`SymphonyProcess.port`. Whatever happens, every process of the
tree is gone when the block is left.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from supervisor.messages import ChildDescription, DescribeTree, TreeDescription, TreeReply
from symphony.api.names import SUPERVISOR
from symphony.api.status import RUNNING, ActorStatus, Status, gather_status
from symphony.mailbox.address import live_pid, mailbox_path
from symphony.mailbox.client import ask
from symphony.messages.acceptor import AcceptorDescription, AcceptorReply, DescribeAcceptor
from tests.support.logs import json_lines

READY_WITHIN_S = 30.0
STOPPED_WITHIN_S = 15.0
MAILBOX_WITHIN_S = 15.0


class SymphonyProcess:
    """One ``symphony run``. `directory` holds the configuration, `runtime_dir` the sockets, `log` what it wrote.

    A test that writes files says itself when they are read, unless `watch` is true, or None for as the file says.
    """

    def __init__(
        self,
        config: str | None,
        *,
        files: Mapping[str, bytes] | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        watch: bool | None = False,
    ) -> None:
        # Not pytest's tmp_path: a socket path has at most 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="sy", dir="/tmp"))
        self.runtime_dir = self.directory / "run"
        self.config_file = self.directory / "symphony.toml"
        self._log_file = self.directory / "log"
        self._arguments = [*arguments, "--runtime-dir", str(self.runtime_dir), "--log-format", "json"]
        if os.geteuid() and "--no-core-dumps" not in self._arguments:
            self._arguments.append("--core-dumps")  # else nobody but root may look at its descriptors
        if watch is not None:
            self._arguments.append("--watch" if watch else "--no-watch")
        self._environment = {**os.environ, **(environment or {})}
        for name, content in (files or {}).items():
            self.write(name, content)
        if config is not None:
            self.config_file.write_text(config)
            self._arguments += ["-c", str(self.config_file)]
        self._process: subprocess.Popen[bytes] | None = None
        self._family: dict[int, psutil.Process] = {}

    def write(self, name: str, content: bytes) -> Path:
        """Write a file beside the configuration, readable by its owner only."""
        path = self.directory / name
        path.write_bytes(content)
        path.chmod(0o600)
        return path

    def start(self, ready_within_s: float = READY_WITHIN_S) -> None:
        """Start it and return when it says that it is ready; AssertionError with its log otherwise."""
        before = len(self.logged("ready"))
        self.spawn()
        deadline = time.monotonic() + ready_within_s
        while len(self.logged("ready")) == before:
            code = self.process.poll()
            assert code is None, f"symphony run ended with code {code}:\n{self.log}"
            assert time.monotonic() < deadline, f"not ready within {ready_within_s} s:\n{self.log}"
            time.sleep(0.02)
        self._remember_family()

    def spawn(self) -> None:
        """Start it without waiting."""
        command = [sys.executable, "-m", "symphony", "run", *self._arguments]
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self.directory,
                start_new_session=True,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self.process.pid

    @property
    def serving_pid(self) -> int:
        """The process id of the supervisor that serves: after an upgrade it is another one."""
        pid = live_pid(str(self.runtime_dir))
        assert pid is not None, "nothing runs"
        return pid

    def processes(self) -> list[psutil.Process]:
        """Every process of this instance, of those that were upgraded from and those that were upgraded to, too."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return found

    @property
    def log(self) -> str:
        """All that it has written so far."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    def events(self) -> list[dict[str, Any]]:
        """The log's lines that are JSON objects."""
        return json_lines(self.log)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of one event."""
        return [line for line in self.events() if line.get("event") == event]

    def status(self) -> Status:
        """Ask the tree what it is doing."""
        return _wait(lambda: gather_status(str(self.runtime_dir), self.pid))

    def child(self, name: str) -> ChildDescription:
        """What the supervisor alone says of one child, at once whatever the child does."""
        path = mailbox_path(str(self.runtime_dir), SUPERVISOR)
        tree = _wait(lambda: ask(path, DescribeTree(), TreeReply, MAILBOX_WITHIN_S))
        assert isinstance(tree, TreeDescription), tree
        return next(found for found in tree.children if found.name == name)

    def acceptor(self, name: str) -> AcceptorDescription:
        """What one acceptor says of itself."""
        path = mailbox_path(str(self.runtime_dir), name)
        answer = _wait(lambda: ask(path, DescribeAcceptor(), AcceptorReply, MAILBOX_WITHIN_S))
        assert isinstance(answer, AcceptorDescription), answer
        return answer

    def acceptor_of(self, client: socket.socket) -> str | None:
        """The acceptor that holds the other end of a client's connection, None while nobody has accepted it."""
        local = client.getsockname()
        for found in self.status().actors:
            if found.kind == "acceptor" and found.pid is not None:
                for entry in psutil.Process(found.pid).net_connections("tcp"):
                    if entry.raddr and tuple(entry.raddr) == local:
                        return found.name
        return None

    def port(self, listener: int = 0) -> int:
        """The port that a listener is bound to, in the order of the configuration."""
        return int(self.address(listener).rpartition(":")[2])

    def address(self, listener: int = 0) -> str:
        """The address that a listener is bound to, such as ``127.0.0.1:40123``."""
        addresses: list[str] = self.logged("ready")[-1]["listeners"]
        return addresses[listener]

    def pid_of(self, name: str) -> int:
        """The process id of an actor, which must be running."""
        pid = actor(self.status(), name).pid
        assert pid is not None, f"{name} is not running"
        return pid

    def wait_running(self, name: str, within_s: float = 30.0) -> ChildDescription:
        """Return a child once it runs; AssertionError after the deadline."""
        deadline = time.monotonic() + within_s
        while (child := self.child(name)).state != RUNNING:
            assert time.monotonic() < deadline, (
                f"not running within {within_s} s: {child}\n{self.log[-4000:]}"
            )
            time.sleep(0.005)
        return child

    def kill_child(self, name: str) -> ChildDescription:
        """SIGKILL a child as soon as it runs; return what it was."""
        child = self.wait_running(name)
        os.kill(child.pid, signal.SIGKILL)
        return child

    def wait_for(self, condition: Callable[[Status], bool], within_s: float = 30.0) -> Status:
        """Return the first status that fulfils `condition`; AssertionError with the last one after the deadline."""
        deadline = time.monotonic() + within_s
        while True:
            status = self.status()
            if condition(status):
                self._remember_family()
                return status
            assert time.monotonic() < deadline, f"not within {within_s} s; last: {status}\n{self.log[-4000:]}"
            time.sleep(0.02)

    def command(self, *arguments: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run another ``symphony`` command against this runtime directory."""
        return run_symphony(
            *arguments, "--runtime-dir", str(self.runtime_dir), cwd=self.directory, timeout_s=timeout_s
        )

    def stop(self, within_s: float = STOPPED_WITHIN_S) -> int:
        """SIGTERM, then return the exit code."""
        self._remember_family()
        self.process.send_signal(signal.SIGTERM)
        return self.wait(within_s)

    def wait(self, within_s: float = STOPPED_WITHIN_S) -> int:
        """Return the exit code of a process that is about to end."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {within_s} s:\n{self.log[-4000:]}") from None

    def clean_up(self) -> None:
        """End everything that is left, without mercy, and remove the directory."""
        if self._process is not None:
            self._remember_family()
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait(10)
            left = [*self._family.values(), *self.processes()]
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=5)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _remember_family(self) -> None:
        try:
            for process in psutil.Process(self.pid).children(recursive=True):
                self._family[process.pid] = process
        except psutil.NoSuchProcess:
            return


@contextmanager
def running_symphony(
    config: str | None,
    *,
    files: Mapping[str, bytes] | None = None,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    watch: bool | None = False,
) -> Iterator[SymphonyProcess]:
    """A ready ``symphony run`` on `config` (TOML text), with `files` written beside it first."""
    symphony = SymphonyProcess(config, files=files, arguments=arguments, environment=environment, watch=watch)
    try:
        symphony.start()
        yield symphony
    finally:
        symphony.clean_up()


def run_symphony(
    *arguments: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> subprocess.CompletedProcess[str]:
    """Run a ``symphony`` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "symphony", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
    )


def actor(status: Status, name: str) -> ActorStatus:
    """The actor `name` in a status."""
    return next(found for found in status.actors if found.name == name)


def _wait(question: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """The answer to `question`, asked in this thread, or in another one where this one runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(question())
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(asyncio.run(question())), daemon=True)
    thread.start()
    thread.join(30)
    assert answers, "no answer within 30 s"
    return answers[0]
