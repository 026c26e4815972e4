"""The tree that harm is done to: a real ``symphony run`` with its services, in a directory of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from supervisor.messages import ChildDescription, DescribeTree, TreeDescription, TreeReply
from symphony.api.reload import request_reload
from symphony.api.upgrading import request_upgrade
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxError, ask
from symphony.messages.acceptor import AcceptorDescription, AcceptorReply, DescribeAcceptor
from symphony.messages.control import ServiceUpgraded
from symphony.messages.registry import RegistryReply, Reload, ReloadDone
from symphony.tls.certificate_maker import make_authority, make_certificate
from tests.support.logs import json_lines
from tools.bench.ports import free_port
from tools.chaos.disk import mount_small_disk, unmount
from tools.chaos.kernel import clients_of, freeze
from tools.chaos.mailboxes import question_for
from tools.chaos.plan import ACCEPTOR, SUPERVISOR
from tools.chaos.records import Death
from tools.chaos.traffic import Site

READY_WITHIN_S = 30.0
ASK_WITHIN_S = 5.0
CHANGED_WITHIN_S = 60.0
RUNNING = "running"
HOST = "127.0.0.1"
DRAIN_S = 6.0
_CHAOS_NAMES = ("plain.chaos.test", "unix.chaos.test", "passed.chaos.test")

_CONFIG = """\
workers = {workers}
drain_timeout_ms = {drain_ms}

[admin]

[[listeners]]
host = "{host}"
port = {tls_port}
default_cert = {{ cert_chain_file = "cert.pem", private_key_file = "key.pem" }}
protection = {{ tls_handshake_timeout_ms = 4000 }}

[[listeners]]
host = "{host}"
port = {http_port}
mode = "http"
protection = {{ tls_handshake_timeout_ms = 4000 }}

[[routes]]
sni = "plain.chaos.test"
max_connections_per_second = 100000
upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = {plain} }}]

[[routes]]
sni = "unix.chaos.test"
upstreams = [{{ kind = "uds", path = "{path}", pid = {pid}, tid = {pid} }}]

[[routes]]
sni = "passed.chaos.test"
terminate_tls = false
upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = {tls} }}]

[[routes]]
sni = "down.chaos.test"
upstreams = [{{ kind = "uds", path = "/nowhere/at/all" }}]

[[routes]]
sni = "mutual.chaos.test"
mtls = {{ client_ca_cert_file = "clients.pem" }}
upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = {plain} }}]
"""
EXTRA_ROUTE = """
[[routes]]
sni = "extra-{number}.chaos.test"
upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = 9 }}]
"""

SECOND_LISTENER = """
[[listeners]]
host = "{host}"
port = {port}
mode = "http"
"""

_KNOWN_KEYS = frozenset({"timestamp", "level", "process", "event"})


class NotAsExpected(Exception):
    """The tree is not in the state that it must be in by now."""


class House:
    """Services, directory and tree. Use as a context manager: everything is gone when the block is left."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        # Not under a deeper path: a socket's has at most 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="syc", dir="/tmp"))
        self.runtime_dir = self.directory / "run"
        self.config_file = self.directory / "symphony.toml"
        self.disk_missing = ""
        """Why the runtime directory has no small disk of its own; empty if it has."""
        self._log_file = self.directory / "log"
        self._backend: subprocess.Popen[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._family: dict[int, psutil.Process] = {}
        self._config = ""
        self._extra = 0
        self._serving = 0
        self._wider = False
        self.site: Site

    def __enter__(self) -> House:
        try:
            self._furnish()
            self.start()
        except BaseException:
            self._clear_out()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._clear_out()

    def _furnish(self) -> None:
        made = make_certificate(["*.chaos.test"])
        for name, content in (
            ("cert.pem", made.chain_pem),
            ("key.pem", made.key_pem),
            ("clients.pem", make_authority("clients of nobody").cert_pem),
        ):
            path = self.directory / name
            path.touch(mode=0o600)
            path.write_bytes(content)
        self.runtime_dir.mkdir(mode=0o700)
        self.disk_missing = mount_small_disk(self.runtime_dir)
        self._backend = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "tools.chaos.backend", str(self.directory)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        assert self._backend.stdout is not None, "asked for a pipe"
        told: dict[str, Any] = json.loads(self._backend.stdout.readline())
        self.site = Site(HOST, free_port(), free_port(), _CHAOS_NAMES, _CHAOS_NAMES[0])
        self._config = _CONFIG.format(
            workers=self.workers,
            drain_ms=int(DRAIN_S * 1000),
            host=HOST,
            tls_port=self.site.tls_port,
            http_port=self.site.http_port,
            **told,
        )
        self._second_listener = SECOND_LISTENER.format(host=HOST, port=free_port())
        self.config_file.write_text(self._config)

    def _clear_out(self) -> None:
        if self._process is not None:
            self.remember_family()
            if not self.has_ended:
                os.kill(self._serving, signal.SIGKILL)
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
        left = list(self._family.values())
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=5)
        if self._backend is not None:
            self._backend.terminate()
            self._backend.wait()
        if self.runtime_dir.is_dir() and not self.disk_missing:
            unmount(self.runtime_dir)
        shutil.rmtree(self.directory, ignore_errors=True)

    # The tree

    def start(self) -> float:
        """Start ``symphony run``, and return how many seconds it took to be ready."""
        before = len(self.logged("ready"))
        began = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "symphony",
            "run",
            "-c",
            str(self.config_file),
            "--log-format",
            "json",
        ]
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [*command, "--runtime-dir", str(self.runtime_dir)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).resolve().parents[2],
                start_new_session=True,
            )
        self._serving = self._process.pid
        while len(self.logged("ready")) == before:
            if self._process.poll() is not None:
                raise NotAsExpected(
                    f"symphony run ended with code {self._process.returncode}:\n{self.log_tail()}"
                )
            if time.monotonic() - began > READY_WITHIN_S:
                raise NotAsExpected(f"symphony run is not ready:\n{self.log_tail()}")
            time.sleep(0.01)
        took = time.monotonic() - began
        self.remember_family()
        return took

    @property
    def pid(self) -> int:
        """The supervisor's process: after an upgrade another one."""
        assert self._process is not None, "started"
        return self._serving

    @property
    def has_ended(self) -> bool:
        """Whether the supervisor is gone."""
        return _is_gone(self._serving)

    def wait_ended(self) -> int:
        """Wait for the supervisor's end; return its exit code, 0 for one that is no child of this process."""
        assert self._process is not None, "started"
        code = self._process.wait(DRAIN_S + READY_WITHIN_S)
        if self._serving == self._process.pid:
            return code
        self.wait(lambda: self.has_ended, "the supervisor ends", DRAIN_S + READY_WITHIN_S)
        return 0

    def stop(self) -> int:
        """Stop the tree in order, and return its exit code."""
        self.remember_family()
        os.kill(self.pid, signal.SIGTERM)
        return self.wait_ended()

    def replace_acceptors(self) -> None:
        """Reload with another set of listeners, which takes new acceptors. Raises NotAsExpected."""
        self._wider = not self._wider
        self._write()
        try:
            done = asyncio.run(request_reload(str(self.runtime_dir), CHANGED_WITHIN_S))
        except MailboxError as error:
            raise NotAsExpected(f"not reloaded: {error}") from None
        if not done.acceptors or done.failure:
            raise NotAsExpected(f"no new acceptors: {done.failure or done.problems}")

    def upgrade(self, when_taken: Callable[[], None]) -> None:
        """Have another process take over, and the one before end. Raises NotAsExpected."""
        self.remember_family()
        try:
            done = asyncio.run(request_upgrade(str(self.runtime_dir), CHANGED_WITHIN_S))
        except MailboxError as error:
            raise NotAsExpected(f"not upgraded: {error}") from None
        if not isinstance(done, ServiceUpgraded):
            raise NotAsExpected(f"not upgraded: {done.reason}")
        former, self._serving = self._serving, done.pid
        when_taken()
        assert self._process is not None, "started"
        if former == self._process.pid:
            self._process.wait(DRAIN_S + READY_WITHIN_S)
        self.wait(lambda: _is_gone(former), f"process {former} is gone", DRAIN_S + READY_WITHIN_S)

    def remember_family(self) -> None:
        """Note every process of the tree, so that none is left behind whatever happens."""
        try:
            for process in psutil.Process(self.pid).children(recursive=True):
                self._family[process.pid] = process
        except psutil.NoSuchProcess:
            pass

    def left_of_family(self) -> list[int]:
        """The processes of earlier trees, and of this one but for the supervisor, that still run."""
        return [
            pid
            for pid, process in self._family.items()
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        ]

    def children(self) -> dict[str, ChildDescription]:
        """The supervisor's children by name. Raises NotAsExpected when it does not answer."""
        answer = self._ask(SUPERVISOR, DescribeTree(), TreeReply)
        if not isinstance(answer, TreeDescription):
            raise NotAsExpected(f"the supervisor answers {answer}")
        return {child.name: child for child in answer.children}

    def child(self, name: str) -> ChildDescription:
        """One child."""
        return self.children()[name]

    def pid_of(self, name: str) -> int:
        """The process of an actor that runs."""
        return self.pid if name == SUPERVISOR else self.wait_running(name).pid

    def acceptors(self) -> list[str]:
        """The acceptors' names."""
        return [name for name, child in self.children().items() if child.kind == "acceptor"]

    def called(self, victim: str) -> str:
        """The name, by now, of an acceptor that the plan knows by the name of one of the first."""
        kind, _, number = victim.rpartition("-")
        return sorted(self.acceptors(), key=_number)[int(number)] if kind == ACCEPTOR else victim

    def describe_acceptor(self, name: str) -> AcceptorDescription:
        """What an acceptor says of itself."""
        answer = self._ask(name, DescribeAcceptor(), AcceptorReply)
        if not isinstance(answer, AcceptorDescription):
            raise NotAsExpected(f"{name} answers {answer}")
        return answer

    def wait_running(self, name: str, within_s: float = 15.0) -> ChildDescription:
        """Return a child once it runs."""
        found: list[ChildDescription] = []

        def runs() -> bool:
            found[:] = [self.child(name)]
            return found[0].state == RUNNING

        self.wait(runs, f"{name} runs", within_s)
        return found[0]

    def wait_whole(self, within_s: float = 20.0) -> None:
        """Wait until every child runs."""
        self.wait(
            lambda: all(child.state == RUNNING for child in self.children().values()), "all run", within_s
        )
        self.remember_family()

    def wait(self, condition: Callable[[], bool], what: str, within_s: float) -> None:
        """Wait for `condition`. Raises NotAsExpected."""
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                raise NotAsExpected(f"not within {within_s:g} s: {what}")
            time.sleep(0.005)

    def freeze(self, name: str, pid: int) -> Death:
        """Stop a process for good: what it holds at this moment is lost when it is killed."""
        freeze(pid)
        frozen_at = time.monotonic()
        ports = (self.site.tls_port, self.site.http_port)
        return Death(name, frozen_at, 0.0, clients_of(pid, ports))

    def write_extra_route(self) -> int:
        """Write a configuration with one route more; return how many it has."""
        self._extra += 1
        self._write()
        return self._config.count("[[routes]]") + self._extra

    def _write(self) -> None:
        routes = "".join(EXTRA_ROUTE.format(number=number) for number in range(self._extra))
        text = self._config
        if self._wider:
            text = text.replace("[[routes]]", self._second_listener + "\n[[routes]]", 1)
        self.config_file.write_text(text + routes)

    def served_routes(self) -> set[int]:
        """How many routes the acceptors serve, each number once."""
        return {self.describe_acceptor(name).routes for name in self.acceptors()}

    def reload(self) -> ReloadDone:
        """Add a route and have the registry read the file again. Raises NotAsExpected when it does not answer."""
        self.write_extra_route()
        answer = self._ask("route-registry", Reload(), RegistryReply)
        if not isinstance(answer, ReloadDone):
            raise NotAsExpected(f"the registry answers {answer}")
        return answer

    def ask_anything(self, name: str) -> None:
        """Ask an actor something, over a new connection. Raises NotAsExpected when it does not answer."""
        self._ask(name, *question_for(name))

    def _ask(self, name: str, message: Any, replies: Any) -> Any:
        path = mailbox_path(str(self.runtime_dir), name)
        try:
            return asyncio.run(ask(path, message, replies, ASK_WITHIN_S))
        except MailboxError as error:
            raise NotAsExpected(f"{name} does not answer: {error}") from None

    # Its log

    def events(self) -> list[dict[str, Any]]:
        """The log's lines that are JSON."""
        return json_lines(self.log_text())

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of one event."""
        return [line for line in self.events() if line.get("event") == event]

    def warnings(self) -> list[str]:
        """What the log says at level warning or above, but for connections."""
        return [
            f"{line.get('timestamp')} {line.get('process')} {line.get('event')}: "
            + ", ".join(f"{key} {value}" for key, value in line.items() if key not in _KNOWN_KEYS)
            for line in self.events()
            if line.get("level") in ("warning", "error") and line.get("event") != "connection_failed"
        ]

    def log_text(self) -> str:
        """The whole log."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    def log_tail(self, lines: int = 30) -> str:
        """The end of the log."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def tracebacks(self) -> list[str]:
        """Lines of the log that no good tree writes: exceptions, and what is no log line at all."""
        found = []
        for line in self.log_text().splitlines():
            if not line.startswith("{") or "Traceback" in line:
                found.append(line[:2000])
        return found


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
