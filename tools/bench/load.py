"""The load process: one epoll loop that drives both sides of a pair, equally and interleaved.

Run as ``python -m tools.bench.load`` with a job (see :mod:`tools.bench.job`) on standard input; the answer goes to
standard output. CPU is read while nothing is in flight, before the first and after the last operation. A side may
be ahead of the other by a few operations only, so both are measured under the same conditions all the way through.
"""

from __future__ import annotations

import gc
import select
import sys
import time
from collections import deque
from typing import Any

import msgspec

from tools.bench import cpu, plain, tls
from tools.bench.client import Client, Exchange
from tools.bench.content import request_for
from tools.bench.figures import percentiles
from tools.bench.job import Job, Level, Result, SideJob, SideResult
from tools.bench.process import raise_descriptor_limit

OPENING_AT_ONCE = 50
SETTLE_S = 0.1
MEMORY_SETTLE_S = 1.0
MAX_ERRORS = 5
_BUFFER = 2048


class TooSlow(Exception):
    """The job did not end within its limit."""


class Side:
    """One proxy under load: its figures, its connections, and how far it has come."""

    def __init__(self, job: SideJob) -> None:
        """Take what is known of the proxy."""
        self.job = job
        self.result = SideResult(name=job.name)
        self.quota = 0
        self.issued = 0
        self.done = 0
        self.clients: list[Client] = []
        self.idle: list[Client] = []
        self.waiting: deque[Client] = deque()
        self.session: Any = None
        self.held = 0

    def fail(self, client: Client | None, reason: str) -> None:
        """Note an error; the measurement ends with it."""
        if len(self.result.errors) < MAX_ERRORS:
            self.result.errors.append(reason)


class Load:
    """The loop and the four kinds of load."""

    def __init__(self, job: Job) -> None:
        """Prepare; nothing is opened yet."""
        self.job = job
        self.epoll = select.epoll()
        self.layer = plain if job.version == "plain" else tls
        if job.version == "plain":
            self.context: Any = plain.ClientContext()
        else:
            self.context = tls.ClientContext(job.version, pinned=job.pinned)
        self.exchange = Exchange(*request_for(job.request))
        self.small = Exchange(*request_for("small"))
        self.sides = [Side(side) for side in job.sides]
        self.by_fd: dict[int, Client] = {}
        self.deadline = time.monotonic() + job.limit_s
        self.lead = 2 * job.connections

    def run(self) -> Result:
        """Do the job. Errors of a side stand in its result."""
        kinds = {"closed": self._closed, "fresh": self._fresh, "rate": self._rate, "hold": self._hold}
        try:
            kinds[self.job.kind]()
        except TooSlow as error:
            for side in self.sides:
                side.fail(None, f"{error}: {side.done} of {side.quota} operations")
        except cpu.ProcessGone as error:
            self.sides[0].fail(None, str(error))
        return Result(sides=[side.result for side in self.sides])

    # --- the loop -----------------------------------------------------------------------------------------------

    def _failed(self) -> bool:
        return any(side.result.errors for side in self.sides)

    def _turn(self, timeout_s: float) -> None:
        by_fd = self.by_fd
        for fd, _ in self.epoll.poll(timeout_s):
            client = by_fd.get(fd)
            if client is not None and client.fd == fd:
                client.on_event()

    def _until_all_done(self) -> None:
        sides = self.sides
        while any(side.done < side.quota for side in sides):
            self._turn(0.5)
            if self._failed():
                return
            if time.monotonic() > self.deadline:
                raise TooSlow("took too long")

    def _settle(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._turn(left)

    def _client(self, side: Side, exchange: Exchange, buf: Any, done: Any) -> Client:
        client = Client(self.epoll, self.layer, side.job.port, exchange, buf, done, side.fail)
        client.tag = side
        return client

    def _open(self, client: Client, session: Any = None) -> None:
        client.open(self.context, session)
        self.by_fd[client.fd] = client

    def _note_parameters(self, client: Client) -> None:
        if not client.tag.result.negotiated:
            client.tag.result.negotiated = self.layer.negotiated(client.ssl)

    # --- connections that are only there ------------------------------------------------------------------------

    def _open_idle(self, step: int) -> None:
        """Bring every side to its number `step` of idle connections, each after one small request."""
        for side in self.sides:
            side.held = (side.job.idle or self.job.idle)[step]
            side.quota, side.done, side.issued = side.held - len(side.idle), 0, 0

        def opened(client: Client) -> None:
            side = client.tag
            self._note_parameters(client)
            side.done += 1
            client.done = _unexpected
            spare.append(client.buf)
            start(side)

        def start(side: Side) -> None:
            if side.issued < side.quota and not side.result.errors:
                side.issued += 1
                client = self._client(side, self.small, spare.pop(), opened)
                side.idle.append(client)
                self._open(client)

        spare = [tls.buffer(_BUFFER * 2) for _ in range(OPENING_AT_ONCE * len(self.sides))]
        for _ in range(OPENING_AT_ONCE):
            for side in self.sides:
                start(side)
        self._until_all_done()

    # --- kept connections, one request in flight on each --------------------------------------------------------

    def _closed(self) -> None:
        size = len(self.exchange.body) + _BUFFER
        for side in self.sides:
            for _ in range(self.job.connections):
                client = self._client(side, self.exchange, tls.buffer(size), self._on_kept)
                client.opened = self._on_kept_open
                side.clients.append(client)
                side.quota += 1
        for group in zip(*(side.clients for side in self.sides), strict=True):
            for client in group:
                self._open(client)
        self._until_all_done()
        for step in range(len(self.job.idle)):
            self._open_idle(step)
            if not self._failed():
                self._kept(self.job.warmup)
                self._measure(lambda: self._kept(self.job.operations))
            if self._failed():
                return

    def _on_kept_open(self, client: Client) -> None:
        self._note_parameters(client)
        client.tag.done += 1

    def _kept(self, operations: int) -> None:
        for side in self.sides:
            side.quota, side.issued, side.done = operations, 0, 0
            side.waiting.clear()
        for group in zip(*(side.clients for side in self.sides), strict=True):
            for client in group:
                self._next_kept(client)
        self._until_all_done()

    def _on_kept(self, client: Client) -> None:
        side: Side = client.tag
        side.done += 1
        self._next_kept(client)
        for other in self.sides:
            if other is not side and other.waiting and other.issued - side.issued < self.lead:
                self._next_kept(other.waiting.popleft())

    def _next_kept(self, client: Client) -> None:
        side: Side = client.tag
        if side.issued >= side.quota:
            return
        for other in self.sides:
            if side.issued - other.issued > self.lead:
                side.waiting.append(client)
                return
        side.issued += 1
        client.request()

    # --- a connection per operation -----------------------------------------------------------------------------

    def _fresh(self) -> None:
        size = len(self.exchange.body) + _BUFFER
        self.spare = {
            side.job.name: [tls.buffer(size) for _ in range(self.job.connections)] for side in self.sides
        }
        self.parked = dict.fromkeys(self.spare, 0)
        self.resuming = False
        if self.job.resume:
            self._fresh_run(2)
            self.resuming = True
        if not self._failed():
            self._fresh_run(self.job.warmup)
        if not self._failed():
            self._measure(lambda: self._fresh_run(self.job.operations))

    def _fresh_run(self, operations: int) -> None:
        for side in self.sides:
            side.quota, side.issued, side.done = operations, 0, 0
            self.parked[side.job.name] = 0
        for _ in range(self.job.connections):
            for side in self.sides:
                self._next_fresh(side)
        self._until_all_done()

    def _next_fresh(self, side: Side) -> None:
        if side.issued >= side.quota or side.result.errors:
            return
        for other in self.sides:
            if side.issued - other.issued > self.lead:
                self.parked[side.job.name] += 1
                return
        side.issued += 1
        client = self._client(side, self.exchange, self.spare[side.job.name].pop(), self._on_fresh)
        self._open(client, side.session if self.resuming else None)

    def _on_fresh(self, client: Client) -> None:
        side: Side = client.tag
        self._note_parameters(client)
        reused = bool(self.layer.session_reused(client.ssl))
        if reused != self.resuming:
            side.fail(
                client, "a session was not resumed" if self.resuming else "a session was resumed unasked"
            )
        if self.job.resume:
            # TLS 1.3 tickets are meant for one use, so the newest is taken each time (RFC 8446 appendix C.4).
            if side.session is not None:
                tls.free_session(side.session)
            side.session = tls.get_session(client.ssl)
        self.by_fd.pop(client.fd, None)
        client.close()
        self.spare[side.job.name].append(client.buf)
        side.done += 1
        self._next_fresh(side)
        for other in self.sides:
            if other is not side and self.parked[other.job.name] and other.issued - side.issued < self.lead:
                self.parked[other.job.name] -= 1
                self._next_fresh(other)

    # --- a fixed rate ---------------------------------------------------------------------------------------------

    def _rate(self) -> None:
        """Requests at fixed due times on one side; latency counts from the due time, also when it had to queue."""
        size = len(self.exchange.body) + _BUFFER
        side = self.sides[0]
        side.quota = self.job.connections
        queues: dict[Client, deque[float]] = {}
        latencies: list[float] = []
        now = time.perf_counter

        def done(client: Client) -> None:
            queue = queues[client]
            latencies.append((now() - queue.popleft()) * 1e6)
            side.done += 1
            if queue:
                client.request()

        for _ in range(self.job.connections):
            client = self._client(side, self.exchange, tls.buffer(size), done)
            client.opened = self._on_kept_open
            queues[client] = deque()
            side.clients.append(client)
            self._open(client)
        self._until_all_done()
        for count, keep in ((self.job.warmup, False), (self.job.operations, True)):
            side.quota, side.done = count, 0
            latencies.clear()
            before, started = cpu.cpu_ns(side.job.pids), now()
            issued, interval, clients = 0, 1 / self.job.rate, side.clients
            while side.done < count and not self._failed():
                due = started + issued * interval
                if issued < count and due <= now():
                    client = clients[issued % len(clients)]
                    issued += 1
                    queue = queues[client]
                    queue.append(due)
                    if len(queue) == 1:
                        client.request()
                    continue
                # epoll counts milliseconds, which is coarser than what is measured here; select counts microseconds.
                wait = max(0.0, due - now()) if issued < count else 0.1
                if select.select([self.epoll], [], [], wait)[0]:
                    self._turn(0)
                if time.monotonic() > self.deadline:
                    raise TooSlow("took too long")
            if keep and not self._failed():
                used = cpu.cpu_ns(side.job.pids) - before
                side.result.levels.append(
                    Level(idle=0, operations=count, cpu_ns=used, seconds=now() - started)
                )
                side.result.latency_us = percentiles(latencies)

    # --- memory ---------------------------------------------------------------------------------------------------

    def _hold(self) -> None:
        for step in range(len(self.job.idle)):
            started = time.monotonic()
            before = [cpu.cpu_ns(side.job.pids) for side in self.sides]
            self._open_idle(step)
            if self._failed():
                return
            seconds = time.monotonic() - started
            used = [cpu.cpu_ns(side.job.pids) - start for side, start in zip(self.sides, before, strict=True)]
            self._settle(MEMORY_SETTLE_S)
            for side, cpu_ns in zip(self.sides, used, strict=True):
                private = cpu.private_bytes(side.job.pids)
                side.result.levels.append(
                    Level(
                        idle=side.held,
                        operations=side.quota,
                        cpu_ns=cpu_ns,
                        seconds=seconds,
                        private_bytes=private,
                    )
                )

    # --- the measurement ------------------------------------------------------------------------------------------

    def _measure(self, work: Any) -> None:
        self._settle(SETTLE_S)
        before = [{pid: cpu.process_cpu_ns(pid) for pid in side.job.pids} for side in self.sides]
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        if self._failed():
            return
        self._settle(SETTLE_S)  # what a proxy does after the last answer belongs to the operation too
        for side, start in zip(self.sides, before, strict=True):
            used = {pid: cpu.process_cpu_ns(pid) - ns for pid, ns in start.items()}
            side.result.levels.append(
                Level(
                    idle=side.held,
                    operations=self.job.operations,
                    cpu_ns=sum(used.values()),
                    seconds=seconds,
                    cpu_ns_of={str(pid): ns for pid, ns in used.items()},
                )
            )


def _unexpected(client: Client) -> None:
    client.failed(client, "an answer came on an idle connection")


def main() -> int:
    """Read a job, run it, print the result."""
    raise_descriptor_limit()
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    gc.disable()  # a collection in the client would show up as latency of the proxy
    try:
        answer = Load(job).run()
    except OSError as error:
        answer = Result(sides=[], failure=f"load process: {error}")
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
