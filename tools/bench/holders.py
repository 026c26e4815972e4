"""All processes that hold the clients' ends of idle connections, spoken to as one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from tools.bench.holder import PORTS_PER_ADDRESS, Answer, HolderJob, Order
from tools.bench.pair import ROOT, RunError

SPARE_DESCRIPTORS = 100
"""What such a process has open besides its connections, with a good margin."""


class Holders:
    """The processes that hold the clients' ends."""

    def __init__(
        self, directory: Path, port: int, connections: int, passthrough: bool, descriptors: int
    ) -> None:
        """Start as many as it takes; each has a source address and a limit of descriptors of its own."""
        self._log = directory / "holders.log"
        self.count = -(-connections // (descriptors - SPARE_DESCRIPTORS))
        addresses = -(-connections // self.count // PORTS_PER_ADDRESS)
        self._processes: list[subprocess.Popen[bytes]] = []
        environment = dict(os.environ, PYTHONPATH=str(ROOT))
        for number in range(self.count):
            with self._log.open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tools.bench.holder"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                )
            self._processes.append(process)
            sources = [source(number * addresses + index) for index in range(addresses)]
            self._send(process, HolderJob(port=port, sources=sources, passthrough=passthrough))

    def _send(self, process: subprocess.Popen[bytes], message: Struct) -> None:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(message) + b"\n")
        process.stdin.flush()

    def _ask(self, orders: Sequence[Order]) -> list[Answer]:
        """Give every process its order at the same time and return their answers. RunError when one has errors."""
        for process, one in zip(self._processes, orders, strict=True):
            self._send(process, one)
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()  # bounded: every order carries its own limit
            if not line:
                said = self._log.read_text(errors="replace").strip()[-300:]
                raise RunError(f"a holding process ended with code {process.wait()}: {said}")
            answers.append(msgspec.json.decode(line, type=Answer))
        if errors := sorted({error for answer in answers for error in answer.errors}):
            raise RunError("; ".join(errors))
        return answers

    def hold(self, connections: int, limit_s: float) -> int:
        """Open until so many are held in all, or the time is up; return how many are."""
        shares = share(connections, self.count)
        return sum(a.held for a in self._ask([Order(kind="hold", count=n, limit_s=limit_s) for n in shares]))

    def check(self, limit_s: float) -> int:
        """Ask the connections that can be asked again; return how many have answered. RunError when one did not."""
        answers = self._ask([Order(kind="check", limit_s=limit_s)] * self.count)
        return sum(answer.checked for answer in answers)

    def stop(self) -> None:
        """Let all connections go."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()


def source(number: int) -> str:
    """Return the loopback address with this number, counted from 127.1.0.1."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


def share(connections: int, processes: int) -> list[int]:
    """Divide connections over processes as evenly as can be."""
    return [(connections + number) // processes for number in range(processes)]
