"""A real Supervisor in a process of its own, with small example children that write down what happens to them.

    with running_tree(lambda make: make.group(make.child("a"), make.child("b"))) as tree:
        os.kill(tree.pid_of("a"), signal.SIGKILL)
        tree.wait_for(lambda children: children["a"].restarts == 1)

Whatever happens, every process is gone when the block is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import structlog
import uvloop

from supervisor.messages import ChildDescription, DescribeTree, StopTree, TreeDescription, TreeReply
from supervisor.spec import BackoffSpec, Birth, ChildSpec, GroupSpec
from supervisor.supervisor import Supervisor
from symphony.mailbox.client import ask
from symphony.mailbox.lifeline import Lifeline
from symphony.observe.logs import configure_logging

LIMIT_S = 15.0
QUICK = BackoffSpec(first_s=0.05, limit_s=0.4, reset_after_s=0.5)


def run_example(
    birth: Birth,
    directory: str,
    *,
    stubborn: bool = False,
    linger_s: float | None = None,
    beat_s: float = 0.05,
    fast_loop: bool = False,
) -> None:
    """An example child.

    It ends when told to: never if `stubborn`, after `linger_s` or after all of its grace (-1) if given. What
    :meth:`TreeProcess.order` wrote for it says how it fails.
    """
    example = _Example(birth, directory, stubborn, linger_s, beat_s)
    orders = Path(directory, f"{birth.name}.order")
    order = orders.read_text() if orders.exists() else ""
    example.note("born", pid=os.getpid(), incarnation=birth.incarnation)
    if order == "hang":
        time.sleep(60)
    if order == "raise":
        raise RuntimeError("an example of an error")
    if order.startswith("exit"):
        sys.exit(int(order.split()[1]))
    if order == "leave":
        sys.exit()
    if order == "complain":
        sys.exit("an example of a complaint")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if fast_loop else None) as runner:
        runner.run(example.live(order))


class _Example:
    def __init__(
        self, birth: Birth, directory: str, stubborn: bool, linger_s: float | None, beat_s: float
    ) -> None:
        self.birth = birth
        self.stubborn = stubborn
        self.linger_s = linger_s
        self.lifeline = Lifeline(birth.lifeline, interval_s=beat_s)
        self._notes = Path(directory, f"{birth.name}.notes")
        self._all_notes = Path(directory, "all.notes")

    def note(self, event: str, **fields: object) -> None:
        line = json.dumps({"child": self.birth.name, "event": event, "at": time.monotonic(), **fields}) + "\n"
        for path in (self._notes, self._all_notes):
            with path.open("a") as file:
                file.write(line)

    async def live(self, order: str) -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()

        def stop(grace: float) -> None:
            self.note("stop", grace=grace)
            if self.linger_s is not None:
                loop.call_later(grace if self.linger_s < 0 else self.linger_s, over.set)
            elif not self.stubborn:
                over.set()

        def orphaned() -> None:
            self.note("orphaned")
            over.set()

        self.lifeline.on_stop = stop
        self.lifeline.on_orphaned = orphaned
        self.lifeline.on_sibling = lambda name, up: self.note("sibling", name=name, up=up)
        self.lifeline.depth = lambda: 7
        await self.lifeline.open()
        if order == "garble":
            self.birth.lifeline.send(b"\xff" * 64)
        if order == "fail":
            self.lifeline.fail("an example of a reason")
            await self.lifeline.close()
            return
        self.lifeline.ready()
        if order.startswith("finish"):
            over.set()
        if order == "deaf":
            await self.lifeline.close()
        await over.wait()
        if order != "deaf":
            await self.lifeline.close()
        self.note("end")
        if order.startswith("finish"):
            sys.exit(int(order.split()[1]))


class Maker:
    """Makes specs of example children for one tree."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def child(self, name: str, *, run: Callable[[Birth], None] | None = None, **settings: Any) -> ChildSpec:
        own = ("stubborn", "linger_s", "beat_s", "fast_loop")
        example = {key: settings.pop(key) for key in own if key in settings}
        run = run or partial(run_example, directory=self.directory, **example)
        return ChildSpec(name, "example", run, f"example: {name}", **{"shutdown_s": 3.0, **settings})

    def order(self, name: str, order: str) -> None:
        """As :meth:`TreeProcess.order`."""
        Path(self.directory, f"{name}.order").write_text(order)

    def group(self, *children: ChildSpec | GroupSpec, name: str = "root", **settings: Any) -> GroupSpec:
        return GroupSpec(name, children, **{"intensity": 1000, "backoff": QUICK, **settings})


Then = Callable[[Supervisor, Maker], Coroutine[Any, Any, None]]
"""What is done in the supervisor's process once everything is ready."""


class TreeProcess:
    """The supervisor's process. SIGTERM and SIGINT stop it, SIGHUP cancels it, SIGUSR1 and 2 set and lift limits."""

    def __init__(
        self,
        plan: Callable[[Maker], GroupSpec],
        prepare: Callable[[], None] | None = None,
        uid: int | None = None,
        then: Then | None = None,
    ) -> None:
        self._then = then
        self.directory = tempfile.mkdtemp(prefix="sy", dir="/tmp")
        self.mailbox = os.path.join(self.directory, "supervisor.sock")
        self._log = Path(self.directory, "log")
        self._log.touch()
        if uid is not None:
            for path in (self.directory, self._log):
                os.chown(path, uid, uid)
        self._code: int | None = None
        self._born: set[psutil.Process] = set()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                code = self._be_supervisor(plan(Maker(self.directory)), prepare, uid)
            except BaseException:  # noqa: BLE001 - it ends the process
                with self._log.open("a") as log:
                    traceback.print_exc(file=log)
            finally:
                os._exit(code)

    # In the supervisor's process

    def _be_supervisor(self, root: GroupSpec, prepare: Callable[[], None] | None, uid: int | None) -> int:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        with self._log.open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - for the life of the process
        configure_logging("json", "debug")
        if uid is not None:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        if prepare is not None:
            prepare()
        return asyncio.run(self._supervise(root))

    async def _supervise(self, root: GroupSpec) -> int:
        logger = structlog.get_logger()
        loop = asyncio.get_running_loop()
        tasks = []

        def ready() -> None:
            logger.info("tree_ready")
            if self._then is not None:
                tasks.append(loop.create_task(self._then(supervisor, Maker(self.directory))))

        supervisor = Supervisor(root, self.mailbox, on_ready=ready)
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.request_stop)
        loop.add_signal_handler(signal.SIGHUP, task.cancel)
        loop.add_signal_handler(signal.SIGUSR1, self._set_limit)
        loop.add_signal_handler(signal.SIGUSR2, self._lift_limits)
        logger.info("supervising", open=sorted(os.listdir("/proc/self/fd")))
        outcome = await supervisor.run()
        for done in await asyncio.gather(*tasks, return_exceptions=True):
            if done is not None:
                logger.error("then_failed", reason=repr(done))
        logger.info("outcome", reason=outcome.reason, clean=outcome.clean)
        return 0 if outcome.clean else 1

    def _set_limit(self) -> None:
        order = Path(self.directory, "limit").read_text()
        if order == "fork":
            resource.setrlimit(resource.RLIMIT_NPROC, (0, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
        else:
            used = {int(name) for name in os.listdir("/proc/self/fd")}
            free = int(order.split()[1])
            # The listing's own descriptor is free again.
            unused = [number for number in range(len(used) + free + 2) if number not in used]
            limit = unused[free - 1] if free else 0
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    def _lift_limits(self) -> None:
        for number in (resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
            hard = resource.getrlimit(number)[1]
            resource.setrlimit(number, (hard, hard))

    # In the test

    def limit(self, order: str) -> None:
        """``fork``: no process can be made; ``free N``: there are N descriptors left; ``none``: as before."""
        Path(self.directory, "limit").write_text(order)
        os.kill(self.pid, signal.SIGUSR2 if order == "none" else signal.SIGUSR1)

    def failed_starts(self) -> int:
        return sum("cannot be started" in entry["reason"] for entry in self.logged("child_exited"))

    def order(self, name: str, order: str) -> None:
        """Tell the next processes of a child how to fail; "" for not at all."""
        Path(self.directory, f"{name}.order").write_text(order)

    def notes(self, name: str = "all", event: str | None = None) -> list[dict[str, Any]]:
        """What a child wrote down, or all in the order of time."""
        path = Path(self.directory, f"{name}.notes")
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        notes = [json.loads(line) for line in lines if line.endswith("\n")]
        return [note for note in notes if event in (None, note["event"])]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of one event."""
        lines = [line for line in self.log.splitlines() if line.startswith("{") and line.endswith("}")]
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def ask(self, message: Any) -> Any:
        return asyncio.run(ask(self.mailbox, message, TreeReply, LIMIT_S))

    def describe(self) -> TreeDescription:
        description = self.ask(DescribeTree())
        assert isinstance(description, TreeDescription)
        return description

    def children(self) -> dict[str, ChildDescription]:
        return {child.name: child for child in self.describe().children}

    def pid_of(self, name: str) -> int:
        pid = self.children()[name].pid
        assert pid, f"{name} does not run\n{self.log}"
        return pid

    def wait_for(
        self, condition: Callable[[dict[str, ChildDescription]], bool], within_s: float = LIMIT_S
    ) -> dict[str, ChildDescription]:
        deadline = time.monotonic() + within_s
        while not condition(children := self.children()):
            assert time.monotonic() < deadline, f"not within {within_s} s: {children}\n{self.log[-4000:]}"
            time.sleep(0.01)
        return children

    def wait_until(self, condition: Callable[[], bool], within_s: float = LIMIT_S) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {within_s} s\n{self.log[-4000:]}"
            time.sleep(0.01)

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert not self.ended(), f"ended with {self._code}\n{self.log}"
            return bool(self.logged("tree_ready"))

        self.wait_until(ready)

    def family(self) -> set[psutil.Process]:
        """All processes that the supervisor has now or had when this was asked before."""
        try:
            self._born |= set(psutil.Process(self.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            pass
        return self._born

    def ended(self) -> bool:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is not None

    def wait_exit(self, within_s: float = LIMIT_S) -> int:
        """Return the supervisor's exit code: 0 for a clean outcome, 1 for another, negative for a signal."""
        self.wait_until(self.ended, within_s)
        assert self._code is not None
        return self._code

    def stop(self, grace_s: float = 3.0) -> int:
        self.ask(StopTree(grace_s))
        return self.wait_exit()

    def reason(self) -> str:
        reason: str = self.logged("outcome")[-1]["reason"]
        return reason

    def clean_up(self) -> None:
        self.family()
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        for process in self._born:
            if process.is_running():
                process.kill()
        psutil.wait_procs(list(self._born), timeout=5)
        shutil.rmtree(self.directory)


@contextmanager
def running_tree(
    plan: Callable[[Maker], GroupSpec],
    *,
    ready: bool = True,
    prepare: Callable[[], None] | None = None,
    uid: int | None = None,
    orders: dict[str, str] | None = None,
    then: Then | None = None,
) -> Iterator[TreeProcess]:
    """A supervisor with what `plan` makes.

    `prepare` is called in its process first, which runs as `uid`; `then` once everything is ready.
    """

    def plan_with_orders(maker: Maker) -> GroupSpec:
        for name, order in (orders or {}).items():
            Path(maker.directory, f"{name}.order").write_text(order)
        return plan(maker)

    tree = TreeProcess(plan_with_orders, prepare, uid, then)
    try:
        if ready:
            tree.wait_ready()
        yield tree
    finally:
        tree.clean_up()
