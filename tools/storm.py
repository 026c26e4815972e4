"""A storm of connections from many source addresses, of which some are far over their limit: ``python tools/storm.py``.

A quiet run first: only sources within their limit. Then the storm: the same sources, and others at twenty times the
limit, while the rate limiter is killed twice. Prints what each kind of source saw, and exits with 1 unless

- no source within its limit was refused,
- the 99th percentile of their connect times is within twice that of the quiet run,
- no source over its limit was let in more often than its burst and rate allow, one burst for each kill added.

A connect time is from the first packet to the first byte of the upstream's answer; connections are passed through.
Sources are addresses in 127.0.0.0/8. Everything is on loopback and is gone afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.greeter import Greeter
from tests.support.symphony_process import SymphonyProcess, running_symphony
from tests.support.tls_client import SteppedClient

RATE, BURST = 1.0, 5.0
"""What one source may: connections a second, and at once."""
QUIET_RATE = 0.15
EXCESS = 20.0
ANSWER_WITHIN_S = 5.0
KILLS = 2
MOST_IN_FLIGHT = 400

_CONFIG = """\
workers = 2
[[listeners]]
host = "127.0.0.1"
port = 0
[listeners.protection]
rate_limit = {{ connections_per_second = {rate}, burst = {burst} }}
penalty_box = {{ duration_ms = 60000 }}
max_concurrent_per_ip = 20
[[routes]]
sni = ""
terminate_tls = false
upstreams = [{{ kind = "uds", path = "{path}" }}]
"""
_HELLO = SteppedClient("storm.test").hello()


@dataclass
class Seen:
    """What sources saw: how long connecting took, who was refused and how often, and what else went wrong."""

    times: list[float] = field(default_factory=list)
    let_in: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def p99_ms(self) -> float:
        """The 99th percentile of the connect times."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000 if ordered else 0.0


def address(number: int) -> str:
    """The address of one source."""
    return f"127.1.{number >> 8}.{number & 255}"


async def _try(source: str, port: int, seen: Seen) -> None:
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    try:
        sock.setblocking(False)
        sock.bind((source, 0))
        began = time.monotonic()
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.sock_sendall(sock, _HELLO)
            answered = await loop.sock_recv(sock, 1)
        if answered:
            seen.times.append(time.monotonic() - began)
            seen.let_in[source] += 1
        else:
            seen.failed["closed"] += 1
    except (ConnectionResetError, BrokenPipeError):
        seen.refused[source] += 1
    except (OSError, TimeoutError) as error:
        seen.failed[type(error).__name__] += 1
    finally:
        sock.close()


async def _drive(sources: list[str], rate: float, port: int, seconds: float, seed: int) -> Seen:
    draw = random.Random(seed)  # noqa: S311 - a load, no secret
    times = sorted(
        (draw.random() / rate + turn / rate, source)
        for source in sources
        for turn in range(int(seconds * rate) + 1)
    )
    seen, running = Seen(), set()
    began = time.monotonic()
    for at, source in times:
        if at >= seconds:
            break
        if (early := began + at - time.monotonic()) > 0:
            await asyncio.sleep(early)
        if len(running) >= MOST_IN_FLIGHT:  # this machine does not keep up
            seen.failed["not tried"] += 1
            await asyncio.sleep(0)
            continue
        task = asyncio.create_task(_try(source, port, seen))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running)
    return seen


def drive(sources: list[str], rate: float, port: int, seconds: float, seed: int) -> Seen:
    """Connect from each of `sources` at `rate` a second, with steady gaps and a phase of its own."""
    return asyncio.run(_drive(sources, rate, port, seconds, seed))


def _kill_limiter(symphony: SymphonyProcess, seconds: float) -> None:
    for _ in range(KILLS):
        time.sleep(seconds / (KILLS + 1))
        symphony.kill_child("rate-limiter")


def rows(name: str, seen: Seen) -> Iterable[str]:
    """One line of the table."""
    yield (
        f"{name:<28}{sum(seen.let_in.values()):>8}{sum(seen.refused.values()):>9}"
        f"{sum(seen.failed.values()):>8}{seen.p99_ms():>12.1f}"
    )


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--sources", type=int, default=2000, help="all of them")
    parser.add_argument("--attackers", type=int, default=100, help="of these, how many exceed their limit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--untimed", action="store_true", help="print the connect times, but judge them not")
    chosen = parser.parse_args()
    quiet = [address(number) for number in range(chosen.sources - chosen.attackers)]
    loud = [address(chosen.sources - number) for number in range(1, chosen.attackers + 1)]
    greeter = Greeter()
    # Forked, and before there is a thread.
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        list(pool.map(time.sleep, (0.1, 0.1)))
        try:
            config = _CONFIG.format(rate=RATE, burst=BURST, path=greeter.path)
            with running_symphony(config) as symphony:
                port = symphony.port()
                calm = max(2.0, chosen.seconds / 3)
                before = pool.submit(drive, quiet, QUIET_RATE, port, calm, chosen.seed).result()
                within = pool.submit(drive, quiet, QUIET_RATE, port, chosen.seconds, chosen.seed + 1)
                over = pool.submit(drive, loud, EXCESS * RATE, port, chosen.seconds, chosen.seed + 2)
                _kill_limiter(symphony, chosen.seconds)
                during, storm = within.result(), over.result()
                child = symphony.wait_running("rate-limiter")
                errors = symphony.status().connections.errors
        finally:
            greeter.close()
    print(f"seed {chosen.seed}; {len(quiet)} sources within their limit, {len(loud)} at {EXCESS:g} times it")
    print(f"{'':<28}{'let in':>8}{'refused':>9}{'failed':>8}{'p99, ms':>12}")
    for name, seen in (
        ("quiet run", before),
        ("in the storm, within", during),
        ("in the storm, over", storm),
    ):
        print(*rows(name, seen))
    print(f"rate limiter restarted {child.restarts} times; connections ended by {errors}")
    most = max(storm.let_in.values(), default=0)
    allowed = BURST + RATE * (chosen.seconds + ANSWER_WITHIN_S) + KILLS * BURST
    kept = {
        "no source within its limit was refused": not (during.refused or before.refused),
        "none of them failed otherwise": not (during.failed or before.failed),
        f"the most that one over its limit got is {most} (allowed: {allowed:g})": 0 < most <= allowed,
        f"the limiter was killed {KILLS} times": child.restarts == KILLS,
    }
    if not chosen.untimed:
        kept["p99 within twice the quiet run's"] = during.p99_ms() <= 2 * before.p99_ms()
    for promise, held in kept.items():
        print(f"{'kept' if held else 'NOT KEPT'}: {promise}")
    return 0 if all(kept.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
