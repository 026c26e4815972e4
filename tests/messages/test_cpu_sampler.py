"""The CPU sampler's process, with the test in the place of the route registry and of an acceptor."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from actors.cpu_sampler import SamplerSettings, run_cpu_sampler
from symphony.mailbox.client import MailboxClient
from symphony.mailbox.server import MailboxServer, Sender
from symphony.messages.registry import (
    RegistryReply,
    RegistryRequest,
    Subscribed,
    SubscribeTargets,
    TargetsPublished,
)
from symphony.messages.sampler import CpuReport, DescribeSampler, SamplerReply, SubscribeCpu
from tests.support.actor_process import LIMIT_S, ActorProcess, Stage
from tests.support.loops import wait_connected

NAME = "cpu-sampler"
Target = tuple[int, int]


class Registry:
    """Publishes targets, as the route registry does, and nothing else."""

    def __init__(self, stage: Stage) -> None:
        self.targets: tuple[Target, ...] = ()
        self.subscribers: list[Sender] = []
        self._path = stage.mailbox("route-registry")
        self._server: MailboxServer | None = None

    async def start(self) -> None:
        self._server = MailboxServer(self._path, RegistryRequest, self._answer)
        await self._server.start()

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()
            self._server = None
            self.subscribers.clear()

    def publish(self, *targets: Target) -> None:
        self.targets = targets
        for sender in self.subscribers:
            sender.push(TargetsPublished(targets))

    def _answer(self, message: RegistryRequest, sender: Sender) -> RegistryReply:
        assert isinstance(message, SubscribeTargets)
        assert message.subscriber == NAME
        self.subscribers.append(sender)
        sender.push(TargetsPublished(self.targets))
        return Subscribed(1)


@contextmanager
def program(text: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program that prints its thread's number first."""
    head = "import threading, time, signal\nprint(threading.get_native_id(), flush=True)\n"
    process = subprocess.Popen([sys.executable, "-c", head + text], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=LIMIT_S)


def target_of(process: subprocess.Popen[str]) -> Target:
    assert process.stdout is not None
    return process.pid, int(process.stdout.readline())


def start(stage: Stage) -> ActorProcess:
    return stage.start(NAME, run_cpu_sampler, SamplerSettings(stage.runtime_dir))


@asynccontextmanager
async def reports(
    stage: Stage,
) -> AsyncIterator[Callable[[str, Callable[[dict[Target, int]], bool]], object]]:
    """Subscribe, and yield a function that waits until a report fulfils a condition."""
    arrived: asyncio.Queue[SamplerReply] = asyncio.Queue()
    client = MailboxClient(stage.mailbox(NAME), SamplerReply)
    client.on_push = arrived.put_nowait
    client.start()

    async def wait_for(what: str, condition: Callable[[dict[Target, int]], bool]) -> dict[Target, int]:
        deadline = time.monotonic() + LIMIT_S
        seen: dict[Target, int] = {}
        while (left := deadline - time.monotonic()) > 0:
            try:
                report = await asyncio.wait_for(arrived.get(), left)
            except TimeoutError:
                break
            assert isinstance(report, CpuReport)
            seen = {(pid, tid): permille for pid, tid, permille in report.samples}
            if condition(seen):
                return seen
        raise AssertionError(f"no report in which {what}; the last was {seen}")

    try:
        assert await wait_connected(client, LIMIT_S)
        assert isinstance(await client.call(SubscribeCpu("test")), CpuReport)
        yield wait_for
    finally:
        await client.close()


async def test_busy_idle_and_dead_threads(stage: Stage) -> None:
    registry = Registry(stage)
    await registry.start()
    try:
        start(stage)
        with program("while True: pass") as busy, program("time.sleep(600)") as idle:
            busy_thread, idle_thread = target_of(busy), target_of(idle)
            async with reports(stage) as wait_for:
                registry.publish(busy_thread, idle_thread, (busy.pid, 1))
                # The cores are shared with other tests: a busy thread may get a small part of one.
                seen = await wait_for(
                    "one is busy and one idle",
                    lambda seen: seen.get(busy_thread, 0) > 50 >= seen.get(idle_thread, 1000),
                )
                assert seen.keys() == {busy_thread, idle_thread}
                busy.kill()
                busy.wait(LIMIT_S)
                await wait_for("only the idle one is left", lambda seen: seen.keys() == {idle_thread})
                registry.publish()
                await wait_for("nobody is left", lambda seen: not seen)
    finally:
        await registry.close()


async def test_a_zombie_is_dead(stage: Stage) -> None:
    registry = Registry(stage)
    await registry.start()
    try:
        start(stage)
        with program("time.sleep(600)") as idle, program("time.sleep(600)") as other:
            thread, other_thread = target_of(idle), target_of(other)
            async with reports(stage) as wait_for:
                registry.publish(thread, other_thread)
                await wait_for("both are there", lambda seen: seen.keys() == {thread, other_thread})
                idle.kill()  # and not waited for
                await wait_for("it is gone", lambda seen: seen.keys() == {other_thread})
    finally:
        await registry.close()


async def test_one_thread_of_a_process(stage: Stage) -> None:
    registry = Registry(stage)
    await registry.start()
    text = """
def work():
    print(threading.get_native_id(), flush=True)
    while True: pass
threading.Thread(target=work, daemon=True).start()
time.sleep(600)
"""
    try:
        start(stage)
        with program(text) as process:
            main_thread = target_of(process)
            worker = target_of(process)
            assert main_thread != worker
            async with reports(stage) as wait_for:
                registry.publish(main_thread, worker)
                await wait_for(
                    "the worker is busy and the main thread is not",
                    lambda seen: seen.get(worker, 0) > 50 >= seen.get(main_thread, 1000),
                )
    finally:
        await registry.close()


async def test_the_registry_comes_late_goes_and_comes_back(stage: Stage) -> None:
    registry = Registry(stage)
    start(stage)
    own = (os.getpid(), os.getpid())
    try:
        async with reports(stage) as wait_for:
            registry.targets = (own,)
            await registry.start()
            await wait_for("this process is there", lambda seen: seen.keys() == {own})
            await registry.close()
            for _ in range(3):
                await wait_for("it is still there", lambda seen: seen.keys() == {own})
            parent = (os.getppid(), os.getppid())
            registry.targets = (parent,)
            await registry.start()
            await wait_for("the new target is there", lambda seen: seen.keys() == {parent})
    finally:
        await registry.close()


async def test_describe_and_end(stage: Stage) -> None:
    process = start(stage)
    client = MailboxClient(stage.mailbox(NAME), SamplerReply)
    client.start()
    try:
        assert await wait_connected(client, LIMIT_S)
        assert await client.call(DescribeSampler()) == CpuReport(())
    finally:
        await client.close()
    process.ask_to_stop(2.0)
    assert process.wait_exit() == 0
