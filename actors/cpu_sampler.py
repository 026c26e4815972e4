"""The CPU sampler: reads how much CPU the upstreams' threads use, and tells the acceptors.

Which threads, it learns from the route registry, to which it connects again by itself; while the registry is away
it goes on with the last ones it knew.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from actors.runtime import Actor, Birth, run_actor
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxClient
from symphony.mailbox.server import MailboxServer, Sender
from symphony.messages.registry import RegistryReply, SubscribeTargets, TargetsPublished
from symphony.messages.sampler import CpuReport, DescribeSampler, SamplerReply, SamplerRequest, SubscribeCpu
from symphony.observe.cpu import CpuMeter

NAME = "cpu-sampler"


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """`registry` is the route registry's name; `interval_s` is how long use is measured."""

    runtime_dir: str
    registry: str = "route-registry"
    interval_s: float = 0.25


class CpuSampler(Actor):
    """Answers SubscribeCpu and DescribeSampler; pushes a CpuReport per interval while there are targets."""

    def __init__(self, settings: SamplerSettings, name: str) -> None:
        self._name = name
        self._interval_s = settings.interval_s
        self._meter = CpuMeter()
        self._targets: tuple[tuple[int, int], ...] = ()
        self._report = CpuReport(())
        self._subscribers: set[Sender] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.mailbox = MailboxServer(
            mailbox_path(settings.runtime_dir, name),
            SamplerRequest,
            self._answer,
            from_workers=(SubscribeCpu, DescribeSampler),
        )
        path = mailbox_path(settings.runtime_dir, settings.registry)
        self._registry = MailboxClient(path, RegistryReply, name=settings.registry)
        self._registry.on_up = self._subscribe
        self._registry.on_push = self._pushed

    async def start(self) -> None:
        """Begin to measure; the registry may come later."""
        self._registry.start()
        self._tick()

    async def stop(self, grace: float) -> None:
        """Stop measuring."""
        if self._timer is not None:
            self._timer.cancel()
        await self._registry.close()

    def _answer(self, message: SamplerRequest, sender: Sender) -> SamplerReply:
        match message:
            case SubscribeCpu():
                if sender not in self._subscribers:
                    self._subscribers.add(sender)
                    sender.on_close(lambda: self._subscribers.discard(sender))
            case DescribeSampler():
                pass
        return self._report

    def _subscribe(self) -> None:
        # A cast has no deadline: a registry that is stuck now reads it when it goes on, and the targets follow.
        self._registry.cast(SubscribeTargets(self._name))

    def _pushed(self, message: RegistryReply) -> None:
        if isinstance(message, TargetsPublished):
            self._targets = message.targets

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._tick)
        had_samples = bool(self._report.samples)
        self._report = CpuReport(tuple(self._meter.sample(self._targets, time.monotonic())))
        if self._report.samples or had_samples:
            for subscriber in tuple(self._subscribers):
                subscriber.push(self._report)


def run_cpu_sampler(birth: Birth, settings: SamplerSettings) -> None:
    """Be the CPU sampler's process."""
    run_actor(birth, lambda: CpuSampler(settings, birth.name))
