"""An instance in front of nginx, whose configuration never stays the same."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from symphony.api.reload import request_reload
from symphony.api.upgrading import request_upgrade
from symphony.messages.control import ServiceReloaded, ServiceUpgraded
from tests.support.ports import lasting_port
from tests.support.symphony_process import SymphonyProcess
from tools.bench import certs
from tools.bench.backend import Backend
from tools.chaos.kernel import descriptors
from tools.promises import NotKept

DRAIN_MS = 30_000
SHAPES = ((2, False), (3, True), (2, True), (3, False))
"""Numbers of workers, and whether there is a second listener."""
_ANSWER_WITHIN_S = 180.0
_SETTLED_WITHIN_S = DRAIN_MS / 1000 + 15.0
MOST_DRAINING = 15
"""Acceptors that may still have connections of earlier generations when the next one begins."""


@dataclass(frozen=True)
class Held:
    """What a process holds. Sizes in KiB."""

    resident: int
    proportional: int
    descriptors: int


class Site:
    """Round `number` of the configuration differs from the one before in routes, certificates and protection."""

    def __init__(self, directory: Path, backend: Backend) -> None:
        self.port, self._second = lasting_port(), lasting_port()
        self._upstream = f'{{ kind = "uds", path = "{backend.plain}" }}'
        pairs = [certs.make(directory, "localhost", "ecdsa", f"pair-{which}") for which in "ab"]
        self._pairs = [(pair.chain.read_bytes(), pair.key.read_bytes()) for pair in pairs]
        self._shape = 0
        files = {"cert.pem": self._pairs[0][0], "key.pem": self._pairs[0][1]}
        self.symphony = SymphonyProcess(self.config(0), files=files)

    @property
    def url(self) -> str:
        """Where nginx answers behind the proxy."""
        return f"https://localhost:{self.port}/small"

    def config(self, number: int) -> str:
        """Return the configuration of round `number`."""
        default = 'default_cert = { cert_chain_file = "cert.pem", private_key_file = "key.pem" }\n'
        workers, second = SHAPES[self._shape]
        listening = [self.port, self._second] if second else [self.port]
        listeners = "".join(
            f'[[listeners]]\nhost = "127.0.0.1"\nport = {port}\n{default}'
            "[listeners.protection]\n"
            f"max_concurrent_per_ip = {10_000 + number}\n"
            f'blocklist = ["192.0.2.{number % 256}", "198.51.100.0/{24 + number % 9}"]\n'
            for port in listening
        )
        routes = "".join(
            f'[[routes]]\nsni = "r{index}.example.test"\nupstreams = [{self._upstream}]\n'
            for index in range(number % 40)
        )
        return (
            f"workers = {workers}\ndrain_timeout_ms = {DRAIN_MS}\n{listeners}"
            f'{routes}[[routes]]\nsni = ""\nupstreams = [{self._upstream}]\n'
        )

    def reload(self, number: int, *, reshape: bool) -> ServiceReloaded:
        """Write round `number` and reload; with `reshape`, in the next one of SHAPES."""
        if reshape:
            self.wait(lambda: len(self.draining()) <= MOST_DRAINING, "earlier acceptors are gone")
            self._shape = (self._shape + 1) % len(SHAPES)
        self.symphony.config_file.write_text(self.config(number))
        chain, key = self._pairs[number % 2]
        self.symphony.write("cert.pem", chain)
        self.symphony.write("key.pem", key)
        done = asyncio.run(request_reload(str(self.symphony.runtime_dir), _ANSWER_WITHIN_S))
        if not done.changed or done.failure or done.problems or bool(done.acceptors) != reshape:
            raise NotKept(f"reload {number}: {done}")
        return done

    def upgrade(self) -> None:
        """Upgrade, and wait until nothing is left of the instance before."""
        before = self.symphony.serving_pid
        done = asyncio.run(request_upgrade(str(self.symphony.runtime_dir), _ANSWER_WITHIN_S))
        if not isinstance(done, ServiceUpgraded):
            raise NotKept(f"not upgraded: {done.reason}")
        self.wait(lambda: not psutil.pid_exists(before) or _is_zombie(before), f"process {before} is gone")

    def draining(self) -> list[str]:
        """The acceptors of earlier generations."""
        status = self.symphony.status()
        return [found.name for found in status.actors if found.state == "draining"]

    def settle(self) -> None:
        """Wait until nothing goes on any more."""
        self.wait(lambda: not self.draining() and not self.symphony.status().connections.active, "it is idle")

    def family(self) -> dict[str, Held]:
        """What each process holds; acceptors are numbered from 0, whatever generation they are of."""
        status = self.symphony.status()
        found = {"supervisor": _held(self.symphony.serving_pid)}
        acceptors = [each for each in status.actors if each.kind == "acceptor"]
        for each in status.actors:
            assert each.pid is not None, f"{each.name} is not running"
            name = f"acceptor {acceptors.index(each)}" if each in acceptors else each.name
            found[name] = _held(each.pid)
        return found

    def processes(self) -> int:
        """How many there are, of all instances."""
        return len(self.symphony.processes())

    def entries(self) -> int:
        """How many files and directories are in the runtime directory."""
        return len(os.listdir(self.symphony.runtime_dir))

    @staticmethod
    def wait(condition: Callable[[], bool], what: str) -> None:
        """Raises NotKept when it does not come true."""
        deadline = time.monotonic() + _SETTLED_WITHIN_S
        while not condition():
            if time.monotonic() > deadline:
                raise NotKept(f"not within {_SETTLED_WITHIN_S:g} s: {what}")
            time.sleep(0.05)


@contextmanager
def running_site() -> Iterator[Site]:
    """Start nginx and an instance in front of it; all of it is gone when the block is left."""
    with tempfile.TemporaryDirectory(prefix="sy", dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        backend = Backend(directory, certs.make(directory, "localhost", "ecdsa"), None)
        try:
            site = Site(directory, backend)
            try:
                site.symphony.start()
                yield site
            finally:
                site.symphony.clean_up()
        finally:
            backend.stop()


def _held(pid: int) -> Held:
    sizes = {}
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            key, *rest = line.split()
            if key in ("Rss:", "Pss:"):
                sizes[key] = int(rest[0])
    return Held(sizes["Rss:"], sizes["Pss:"], _lasting_descriptors(pid))


def _lasting_descriptors(pid: int) -> int:
    """Without those of questions that were answered just now."""
    found = []
    for _ in range(10):
        found.append(sum(descriptors(pid)))
        time.sleep(0.02)
    return min(found)


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
