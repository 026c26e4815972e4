"""Start the proxy in this process and supervise it until it ends.

In this order, because each step may refuse the start and must leave nothing behind: take the runtime directory,
check the configuration (in a process of its own), bind the ports, fork the tree. This process then holds the
listening sockets and the base TLS context, and no key, no route and no thread.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import setproctitle
import structlog

from supervisor.action import Outcome
from symphony.api.child import call_in_child
from symphony.api.examine import examine_apart
from symphony.api.heritage import take_affinity
from symphony.api.listening import BoundListener, bind_listeners, close_sockets
from symphony.api.names import SUPERVISOR
from symphony.api.running import Running, Setting
from symphony.api.takeover import Predecessor, TakeoverFailed, find_predecessor
from symphony.api.tie import Tie
from symphony.api.tree import Blueprint
from symphony.api.tree_dir import TreeDir, remove_all
from symphony.config.check import render_address
from symphony.config.problem import ConfigError
from symphony.config.source import find_file
from symphony.demo.files import write_demo
from symphony.host.activation import PassedSocket, take_passed_sockets
from symphony.host.descriptors import needed, raise_limit
from symphony.host.hardening import forbid_dumps
from symphony.mailbox.address import (
    MailboxPathError,
    RuntimeDirBusy,
    RuntimeDirError,
    RuntimeLock,
    open_to_group,
    prepare_runtime_dir,
)
from symphony.mailbox.peers import set_workers
from symphony.observe.line_sink import LineSink
from symphony.observe.logs import LogFormat, configure_logging, name_process
from symphony.routing.snapshot_store import FILE_NAME as SNAPSHOT_FILE

STDERR = 2

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

    Where another supervisor has started this process to take its place, it takes over from that one.

    Raises :class:`ConfigError`, RuntimeDirError, MailboxPathError or OSError when it cannot start.
    """
    # As standard error, so that what is not the log's - the last words of a dying interpreter - is in the file, too.
    sink = LineSink(descriptor=STDERR, path=launch.log_file)
    configure_logging(launch.log_format, launch.log_level, sink)
    name_process(SUPERVISOR)
    setproctitle.setproctitle(f"symphony: {SUPERVISOR}")
    try:
        predecessor = find_predecessor()
    except TakeoverFailed as error:
        raise RuntimeDirError(str(error)) from error
    try:
        return _serve(launch, announce, predecessor)
    except (ConfigError, RuntimeDirError, MailboxPathError, OSError) as error:
        if predecessor is not None:
            predecessor.fail(str(error), configuration=isinstance(error, ConfigError))
        raise


def _serve(launch: Launch, announce: Callable[[str], None], predecessor: Predecessor | None) -> bool:
    demo = None
    if launch.demo:
        runtime_dir, lock = _take_demo_dir(launch)
        demo = call_in_child(partial(write_demo, runtime_dir))
        examination = examine_apart(demo.config_file, launch.overrides)
    else:
        examination = examine_apart(find_file(launch.config_file), launch.overrides)
        if predecessor is None:
            runtime_dir = launch.runtime_dir or examination.runtime_dir or launch.default_runtime_dir
            lock = _take_dir(runtime_dir)
        else:
            runtime_dir, lock = predecessor.runtime_dir, predecessor.lock
    if not examination.core_dumps:
        forbid_dumps()  # the tickets of TLS sessions are encrypted by keys that this process makes
    for warning in examination.warnings:
        announce(warning.line(examination.file))
    try:
        if predecessor is None:
            remove_all(runtime_dir)
        raise_limit(needed(examination.listeners))
        if examination.account is not None:
            open_to_group(runtime_dir, examination.account.gid)
            set_workers(examination.account.uid, examination.account.gid)
        passed = predecessor.passed if predecessor is not None else take_passed_sockets()
        present = predecessor.listeners if predecessor is not None else ()
        listeners = bind_listeners(
            examination.file, examination.listeners, examination.workers, present, passed
        )
        close_sockets(present, but=listeners)  # the predecessor has them, too
        _report_unused(passed, listeners)
        tie = Tie.to(launch.tied_to)
        tree_dir = TreeDir.make(runtime_dir, serving=predecessor is None)
        if predecessor is not None:
            tree_dir.bring_along(SNAPSHOT_FILE)
        blueprint = Blueprint(
            # Absolute: what the user meant must not depend on anybody's working directory later.
            config_file=os.path.abspath(examination.file),
            overrides=launch.overrides,
            runtime_dir=tree_dir.path,
            public_dir=runtime_dir,
            demo_path=demo.upstream_path if demo is not None else None,
            admin=examination.admin,
            passed=passed,
            heir_of=predecessor.pid if predecessor is not None else 0,
            affinity=take_affinity(predecessor.memory if predecessor is not None else {}),
        )
        return _run(
            Setting(lock, tree_dir, examination, blueprint, listeners, demo, tie, predecessor), announce
        )
    finally:
        if demo is not None:
            shutil.rmtree(demo.directory)
        if predecessor is not None and not predecessor.gave_way:
            lock.part_with()
        elif lock.held:
            lock.release()


def _run(setting: Setting, announce: Callable[[str], None]) -> bool:
    """Run from here to the end; return whether that was clean."""
    serving = setting.predecessor is None

    async def run() -> Outcome:
        nonlocal serving
        running = Running(setting, announce)
        try:
            return await running.run()
        finally:
            serving = running.serving

    try:
        outcome = asyncio.run(run())
    finally:
        try:
            setting.tree_dir.remove(serving=serving)
        except OSError as error:  # somebody has removed it, or its file system is gone
            log.warning("runtime directory not cleared", reason=str(error))
    log.info("stopped", reason=outcome.reason, clean=outcome.clean)
    return outcome.clean


def _report_unused(passed: tuple[PassedSocket, ...], listeners: tuple[BoundListener, ...]) -> None:
    bound = {listener.address for listener in listeners}
    for each in passed:
        address = render_address(*each.address)
        if address not in bound:
            advice = "give a listener this host and port, or take the address out of the socket unit"
            log.warning("passed_socket_not_used", name=each.name, address=address, advice=advice)


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
