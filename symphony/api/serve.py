"""Start the proxy in this process and supervise it until it ends.

In this order, because each step may refuse the start and must leave nothing behind: take the runtime directory,
check the configuration (in a process of its own), bind the ports, fork the tree. This process then holds the
listening sockets and the base TLS context, and no key, no route and no thread.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import setproctitle
import structlog

from supervisor.action import Outcome
from supervisor.supervisor import Supervisor
from symphony.api.child import call_in_child
from symphony.api.control import Control
from symphony.api.examine import Examination, examine_apart
from symphony.api.generation import new_generation
from symphony.api.generations import Generations
from symphony.api.listening import BoundListener, bind_listeners
from symphony.api.names import SUPERVISOR
from symphony.api.service_manager import Service, ServiceManager
from symphony.api.tree import Blueprint, compose_tree
from symphony.config.check import render_address
from symphony.config.source import find_file
from symphony.connection.tenure import Stage
from symphony.demo.files import Demo, write_demo
from symphony.host.activation import PassedSocket, take_passed_sockets
from symphony.host.descriptors import needed, raise_limit
from symphony.host.hardening import confine, forbid_dumps
from symphony.host.notify import notifier, watchdog_interval_s
from symphony.mailbox.address import (
    RuntimeDirBusy,
    RuntimeLock,
    mailbox_path,
    open_to_group,
    prepare_runtime_dir,
)
from symphony.mailbox.peers import set_workers
from symphony.observe.books import Books
from symphony.observe.line_sink import LineSink
from symphony.observe.logs import LogFormat, configure_logging, name_process, reopen_log
from symphony.routing.snapshot_store import SnapshotStore
from symphony.version import __version__

STDERR = 2
# A stopping acceptor takes what waits in its queues and then lets nobody in; one that hangs has this long to do so.
_REFUSE_AFTER_S = 0.25

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Launch:
    """What the user said; None and "" where nothing."""

    config_file: str | None
    demo: bool
    workers: int | None
    runtime_dir: str | None
    default_runtime_dir: str
    log_format: LogFormat
    log_level: str
    watch: bool | None = None
    log_file: str = ""
    tied_to: int | None = None
    core_dumps: bool | None = None

    @property
    def overrides(self) -> dict[str, object]:
        """The top-level keys that stand above those of the configuration file, now and at every reload."""
        said = {"workers": self.workers, "watch": self.watch, "core_dumps": self.core_dumps}
        return {key: value for key, value in said.items() if value is not None}


def serve(launch: Launch, announce: Callable[[str], None]) -> bool:
    """Run the proxy until it has stopped; return whether that was clean. `announce` shows text to the user.

    Raises :class:`ConfigError`, RuntimeDirError, MailboxPathError or OSError when it cannot start.
    """
    # As standard error, so that what is not the log's - the last words of a dying interpreter - is in the file, too.
    sink = LineSink(descriptor=STDERR, path=launch.log_file)
    configure_logging(launch.log_format, launch.log_level, sink)
    name_process(SUPERVISOR)
    setproctitle.setproctitle(f"symphony: {SUPERVISOR}")
    if launch.demo:
        runtime_dir, lock = _take_demo_dir(launch)
        demo = call_in_child(partial(write_demo, runtime_dir))
        examination = examine_apart(demo.config_file, launch.overrides)
    else:
        demo = None
        examination = examine_apart(find_file(launch.config_file), launch.overrides)
        runtime_dir = launch.runtime_dir or examination.runtime_dir or launch.default_runtime_dir
        lock = _take_dir(runtime_dir)
    if not examination.core_dumps:
        forbid_dumps()  # the tickets of TLS sessions are encrypted by keys that this process makes
    for warning in examination.warnings:
        announce(warning.line(examination.file))
    try:
        _clear(runtime_dir)
        raise_limit(needed(examination.listeners))
        if examination.account is not None:
            open_to_group(runtime_dir, examination.account.gid)
            set_workers(examination.account.uid, examination.account.gid)
        passed = take_passed_sockets()
        listeners = bind_listeners(
            examination.file, examination.listeners, examination.workers, passed=passed
        )
        _report_unused(passed, listeners)
        tie = _Tie.to(launch.tied_to)
        instance = _Instance(runtime_dir, examination, launch.overrides, listeners, demo, passed, tie)
        return _supervise(instance, announce)
    finally:
        _clear(runtime_dir)
        if demo is not None:
            shutil.rmtree(demo.directory)
        lock.release()


def _take_dir(runtime_dir: str) -> RuntimeLock:
    prepare_runtime_dir(runtime_dir)
    lock = RuntimeLock(runtime_dir)
    lock.acquire()
    return lock


def _take_demo_dir(launch: Launch) -> tuple[str, RuntimeLock]:
    """The usual runtime directory if nobody has it, so that ``symphony status`` finds the demo; else another."""
    if launch.runtime_dir is not None:
        return launch.runtime_dir, _take_dir(launch.runtime_dir)
    for runtime_dir in (launch.default_runtime_dir, f"{launch.default_runtime_dir}-demo"):
        try:
            return runtime_dir, _take_dir(runtime_dir)
        except RuntimeDirBusy:
            continue
    runtime_dir = tempfile.mkdtemp(prefix="symphony-demo-")
    return runtime_dir, _take_dir(runtime_dir)


def _clear(runtime_dir: str) -> None:
    """Remove what an earlier run left: mailboxes of actors that are not there, and its snapshot with its keys.

    The snapshot is for an actor that starts again within one run; a start checks everything anew.
    """
    for name in os.listdir(runtime_dir):
        if name.endswith(".sock"):
            os.unlink(os.path.join(runtime_dir, name))
    snapshot = SnapshotStore(runtime_dir).path
    if os.path.exists(snapshot):
        os.unlink(snapshot)


@dataclass(frozen=True, slots=True)
class _Instance:
    """All that is known of this run before the first fork."""

    runtime_dir: str
    examination: Examination
    overrides: Mapping[str, object]
    listeners: tuple[BoundListener, ...]
    demo: Demo | None
    passed: tuple[PassedSocket, ...]
    tie: _Tie | None = None


def _supervise(instance: _Instance, announce: Callable[[str], None]) -> bool:
    examination = instance.examination
    blueprint = Blueprint(
        # Absolute: what the user meant must not depend on anybody's working directory later.
        config_file=os.path.abspath(examination.file),
        overrides=instance.overrides,
        runtime_dir=instance.runtime_dir,
        demo_path=instance.demo.upstream_path if instance.demo is not None else None,
        admin=examination.admin,
        passed=instance.passed,
    )
    outcome = asyncio.run(_run(instance, blueprint, announce))
    log.info("stopped", reason=outcome.reason, clean=outcome.clean)
    return outcome.clean


async def _run(instance: _Instance, blueprint: Blueprint, announce: Callable[[str], None]) -> Outcome:
    examination = instance.examination
    drain_s = examination.drain_timeout_ms / 1000
    books = Books()
    first = new_generation(1, 0, instance.listeners, examination.workers, books, Stage.HOLDING)

    def ready() -> None:
        control.ready()
        manager.ready()
        _tell_ready(instance, announce)
        if instance.tie is not None:
            instance.tie.tell_ready()

    path = mailbox_path(instance.runtime_dir, SUPERVISOR)
    supervisor = Supervisor(
        compose_tree(blueprint, first, drain_s),
        path,
        on_ready=ready,
        confine=partial(confine, core_dumps=examination.core_dumps, account=examination.account),
    )
    generations = Generations(supervisor, blueprint, books, first, drain_s)
    manager = ServiceManager(notifier(), watchdog_interval_s(), partial(_look, supervisor, generations))
    control = Control(blueprint, generations, books, manager)
    loop = asyncio.get_running_loop()
    stop = _Stop(supervisor, generations, manager)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.request)
    loop.add_signal_handler(signal.SIGHUP, control.reload_soon)
    loop.add_signal_handler(signal.SIGUSR1, reopen_log)
    if instance.tie is not None:
        instance.tie.on_end(stop.request)
    await control.start()
    try:
        return await supervisor.run()
    finally:
        manager.close()
        await control.close()


def _look(supervisor: Supervisor, generations: Generations) -> Service:
    wanted = generations.current.names
    return Service(len(supervisor.serving().intersection(wanted)), len(wanted))


def _report_unused(passed: tuple[PassedSocket, ...], listeners: tuple[BoundListener, ...]) -> None:
    bound = {listener.address for listener in listeners}
    for each in passed:
        address = render_address(*each.address)
        if address not in bound:
            advice = "give a listener this host and port, or take the address out of the socket unit"
            log.warning("passed_socket_not_used", name=each.name, address=address, advice=advice)


def _tell_ready(instance: _Instance, announce: Callable[[str], None]) -> None:
    log.info(
        "ready",
        version=__version__,
        pid=os.getpid(),
        listeners=[listener.address for listener in instance.listeners],
        routes=instance.examination.routes,
        acceptors=instance.examination.workers,
        runtime_dir=instance.runtime_dir,
    )
    if instance.demo is not None:
        announce(f"\nReady. Try, from another shell:\n\n    {instance.demo.curl_line}\n\nCtrl-C stops it.\n")


class _Tie:
    """The socket that ties this tree to the program that started it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)

    @classmethod
    def to(cls, descriptor: int | None) -> _Tie | None:
        """The tie on an inherited descriptor. Raises OSError when it is no socket."""
        return None if descriptor is None else cls(socket.socket(fileno=descriptor))

    def tell_ready(self) -> None:
        """Say that the tree serves."""
        try:
            self._sock.send(b"ready")
        except OSError:
            pass  # the program is gone, and its end comes next

    def on_end(self, stop: Callable[[], None]) -> None:
        """Call `stop` when the program closes its end, or has died."""
        loop = asyncio.get_running_loop()

        def readable() -> None:
            try:
                if self._sock.recv(64):
                    return
            except BlockingIOError:
                return
            except OSError:
                pass
            loop.remove_reader(self._sock)
            stop()

        loop.add_reader(self._sock, readable)


class _Stop:
    """Carries SIGTERM and SIGINT to the tree. While it drains, new connections are refused and the ports are free.

    They would otherwise be taken by the kernel, wait for an acceptor that never comes, and be reset at the end. The
    acceptors see to it themselves when they stop; after so long, this process does so for those that could not.
    """

    def __init__(self, supervisor: Supervisor, generations: Generations, manager: ServiceManager) -> None:
        self._supervisor = supervisor
        self._manager = manager
        self._generations = generations
        self._stopping = False

    def request(self) -> None:
        """Stop the tree; the second time, at once."""
        self._manager.stopping(self._generations.drain_timeout_s)
        self._supervisor.request_stop(self._generations.drain_timeout_s)
        if not self._stopping:
            self._stopping = True
            asyncio.get_running_loop().call_later(_REFUSE_AFTER_S, self._generations.refuse)
