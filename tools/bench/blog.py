"""An echo application served three ways: as plain HTTP, as HTTPS by its own runtime, and behind Symphony.

Application and proxy share one core, load is on another. Every iteration starts everything afresh, in another order.
Measured are latency at a fixed rate that all of them can bear, and throughput with a few connections that never wait.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import Struct

from tools.bench.asking import ask
from tools.bench.backend import start_backend
from tools.bench.cpu import ProcessGone
from tools.bench.figures import Spread, spread
from tools.bench.job import Job, SideJob
from tools.bench.outcome import Machine
from tools.bench.pair import Cores, RunError, measure, settled_pids
from tools.bench.peers import Peer, Service, Symphony, output_of
from tools.bench.ports import PortTaken, free_port
from tools.bench.process import StartFailed
from tools.bench.running import Running, running
from tools.bench.workspace import Workspace

APP = Path(__file__).with_name("echo_app")
SIZES = (10, 100, 1_000, 10_000)
WAYS = ("plain", "https", "symphony")
TITLES = {"plain": "plain HTTP", "https": "HTTPS by its own runtime", "symphony": "behind Symphony"}
RATE = 500
CONNECTIONS = 10
_OPERATIONS = 1500
_WARM_UP = 300


class EchoPoint(Struct, kw_only=True):
    """One way of serving with one size in one iteration: microseconds, requests a second."""

    way: str
    size: int
    iteration: int
    p50_us: float
    p99_us: float
    per_second: float
    cpu_us: float


class EchoReport(Struct, kw_only=True):
    """A whole run; `failed` says of the ways that were left out what went wrong."""

    started: str
    seconds: float
    application: str
    symphony: str
    iterations: int
    machine: Machine
    points: list[EchoPoint]
    failed: dict[str, str]
    warnings: list[str]


@dataclass(frozen=True)
class Application:
    """The echo application: how it is started, and what it is."""

    name: str
    program: tuple[str, ...]

    def command(self, kind: str, where: str, service: Service) -> list[str]:
        """Return the command that serves `plain` or `https` on a port, or `unix` on a path."""
        files = [str(service.pair.chain), str(service.pair.key)] if kind == "https" else []
        return [*self.program, kind, where, *files]


def find_application() -> Application:
    """Return the application on node when that is there, else the one in Python."""
    if node := shutil.which("node"):
        version = output_of([node, "--version"], r"v(\S+)")
        return Application(f"node {version}", (node, str(APP / "app.cjs")))
    version = ".".join(map(str, sys.version_info[:3]))
    return Application(
        f"Python {version}, uvloop and h11 (node is not installed)", (sys.executable, str(APP / "app.py"))
    )


class Alone(Peer):
    """The application by itself, with or without TLS."""

    def __init__(self, application: Application, kind: str) -> None:
        """`kind` is `plain` or `https`."""
        self.name = kind
        self._application = application

    def config(self, service: Service) -> str:
        """Return nothing: all it has to know is on its command line."""
        return ""

    def command(self, config: Path, service: Service) -> list[str]:
        """Return the command that runs it in the foreground."""
        return self._application.command(self.name, str(service.port), service)

    def probe(self, port: int) -> None:
        """Ask it for an echo."""
        ask(port, "echo-10", plain=self.name == "plain")


class Behind(Symphony):
    """Symphony before the application."""

    def probe(self, port: int) -> None:
        """Ask it for an echo."""
        ask(port, "echo-10")


@contextlib.contextmanager
def served(
    way: str, application: Application, service: Service, cores: Cores
) -> Iterator[tuple[Running, Callable[[], list[int]]]]:
    """Serve one way; yield what listens on the port, and a function that returns all its processes."""
    here = replace(service, port=free_port())
    if way != "symphony":
        with running(Alone(application, way), here, cores.proxies) as alone:
            yield alone, alone.pids
        return
    socket = service.directory / "echo.sock"
    socket.unlink(missing_ok=True)
    command = application.command("unix", str(socket), service)
    program = start_backend("echo", command, service.directory, cores.proxies, [socket])
    try:
        with running(Behind(), replace(here, upstream=socket), cores.proxies) as proxy:
            yield proxy, lambda: sorted([*proxy.pids(), *program.pids()])
    finally:
        program.stop()


def measure_way(
    way: str, application: Application, service: Service, cores: Cores, iteration: int, scale: float
) -> list[EchoPoint]:
    """Serve one way and measure all sizes. RunError when an answer was wrong or a process came or went."""

    def work(requests: int) -> int:
        return max(20, round(requests * scale))

    points = []
    version = "plain" if way == "plain" else "1.3"
    with served(way, application, service, cores) as (proxy, processes):
        settled_pids(proxy)
        pids = processes()
        side = SideJob(name=way, port=proxy.port, pids=pids)
        for size in SIZES:
            job = Job(
                kind="rate", sides=[side], request=f"echo-{size}", version=version, connections=CONNECTIONS, rate=RATE,
                warmup=work(_WARM_UP), operations=work(_OPERATIONS),
            )  # fmt: skip
            steady = measure(job, cores.load).sides[0]
            job = Job(
                kind="closed", sides=[side], request=f"echo-{size}", version=version, connections=CONNECTIONS,
                warmup=work(_WARM_UP), operations=work(4 * _OPERATIONS),
            )  # fmt: skip
            busy = measure(job, cores.load).sides[0].levels[0]
            points.append(
                EchoPoint(
                    way=way,
                    size=size,
                    iteration=iteration,
                    p50_us=steady.latency_us["p50"],
                    p99_us=steady.latency_us["p99"],
                    per_second=busy.operations / busy.seconds,
                    cpu_us=busy.cpu_ns / busy.operations / 1000,
                )
            )
        if processes() != pids:
            raise RunError(f"{way}: its processes changed during the measurement")
    return points


def run(
    space: Workspace,
    cores: Cores,
    application: Application,
    iterations: int,
    scale: float,
    say: Callable[[str], None],
    step: Callable[[], None],
) -> tuple[list[EchoPoint], dict[str, str]]:
    """Measure every way in every iteration; return the points, and why ways were left out."""
    service = Service(space.directory, 0, space.backend.plain, space.ecdsa)
    points: list[EchoPoint] = []
    failed: dict[str, str] = {}
    for iteration in range(iterations):
        for way in rotated(WAYS, iteration):
            say(f"iteration {iteration + 1}: {TITLES[way]}")
            if way not in failed:
                try:
                    points += measure_way(way, application, service, cores, iteration, scale)
                except (RunError, StartFailed, PortTaken, ProcessGone, OSError) as error:
                    failed[way] = f"{type(error).__name__}: {error}"
            step()
    return [point for point in points if point.way not in failed], failed


def rotated(ways: Sequence[str], iteration: int) -> list[str]:
    """Return the ways in another order each time, so that none always comes first."""
    first = iteration % len(ways)
    return [*ways[first:], *ways[:first]]


def of(
    points: Sequence[EchoPoint], way: str, size: int, value: Callable[[EchoPoint], float]
) -> Spread | None:
    """Return a value of one way and size over all iterations; None when it was not measured."""
    values = [value(point) for point in points if point.way == way and point.size == size]
    return spread(values) if values else None


def jitter(latencies: Spread) -> float:
    """Return how far the medians of the iterations lie apart, as a part of their median."""
    return (latencies.high - latencies.low) / latencies.median
