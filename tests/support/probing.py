"""A prober with upstreams of a test's, in the test's own process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from structlog.testing import capture_logs

from symphony.config.model import HealthCheck, SourceAddressHeader, Upstream
from symphony.connection.prober import Prober
from symphony.connection.resolver import Address, Resolver
from symphony.observe.counters import CounterPage
from symphony.routing.checks import check_target
from symphony.routing.pool import UpstreamPool

QUICK = HealthCheck(interval_ms=100, timeout_ms=400, rise=1, fall=1)
QUICK_TLS = HealthCheck(interval_ms=100, timeout_ms=2000, rise=1, fall=1, tls=True)
LIMIT_S = 10.0


class Names(Resolver):
    """Knows one name, with what addresses the test says; it may also never answer."""

    __slots__ = ("known",)

    def addresses(self, host: str, port: int, callback: Callable[[Sequence[Address]], None]) -> bool:
        if host == "silent.test":
            return False
        if host == "known.test":
            callback([(family, (address, port)) for family, address in self.known])
            return True
        return super().addresses(host, port, callback)


class Probing:
    """A prober with some targets, and what it has found out."""

    def __init__(
        self, *targets: tuple[Upstream, HealthCheck], route: str = "", header: SourceAddressHeader = "none"
    ) -> None:
        loop = asyncio.get_running_loop()
        self.pages = [CounterPage([])]
        self.pool = UpstreamPool([self.pages[0].upstreams])
        self.names = Names(loop)
        self.names.known = ()
        self.prober = Prober(loop, self.pool, self.names, 0, 1)
        self.slots = [self.pool.slot(upstream, number) for number, (upstream, _) in enumerate(targets)]
        self.targets = {
            slot.upstream.label: check_target(route, slot, settings, header)
            for slot, (_, settings) in zip(self.slots, targets, strict=True)
        }

    async def until(self, *states: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while [slot.record.health.state for slot in self.slots] != list(states) or not all(
            slot.record.last_check()[1] for slot in self.slots
        ):
            assert time.monotonic() < deadline, [slot.record.health.state for slot in self.slots]
            await asyncio.sleep(0.01)

    async def reason(self) -> str:
        """Why the only target is down."""
        with capture_logs() as lines:
            await self.until("down")
        (line,) = [line for line in lines if line["event"] == "upstream_down"]
        because: str = line["because"]
        return because

    async def __aenter__(self) -> Probing:
        self.prober.start()
        self.prober.follow(self.targets)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.prober.stop()
        await asyncio.sleep(0)
        self.names.close()
