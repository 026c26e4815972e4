"""Steady traffic while a test does harm: short calls without a pause, and connections that stay open."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from tests.support.calls import ask, client_context, connect
from tests.support.showcase import Expected

PAUSE_S = 0.01
"""Between two questions on a connection that stays open, and between two short calls."""

LIMIT_S = 15.0


@dataclass(frozen=True)
class Failure:
    """A short call that did not get its answer; times are of :func:`time.monotonic`."""

    route: str
    began: float
    ended: float
    error: str


class SteadyCalls:
    """Calls each of `routes` again and again, each route from a thread of its own, until the block is left."""

    def __init__(self, routes: Sequence[Expected]) -> None:
        self.failures: list[Failure] = []
        self.answered: list[float] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(expected,), name=f"calls to {expected.route}")
            for expected in routes
        ]

    def __enter__(self) -> SteadyCalls:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive(), f"{thread.name} do not end"

    def answered_between(self, begin: float, end: float) -> int:
        """How many calls got their answer in a span of time."""
        return sum(begin <= moment <= end for moment in tuple(self.answered))

    def wait_answers(self, count: int, limit_s: float = LIMIT_S) -> None:
        """Wait until `count` more calls are answered."""
        wanted = len(self.answered) + count
        deadline = time.monotonic() + limit_s
        while len(self.answered) < wanted:
            assert time.monotonic() < deadline, (
                f"fewer than {count} answers in {limit_s:g} s; failures: {len(self.failures)}, {self.failures[:5]}"
            )
            time.sleep(0.005)

    def failed_after(self, moment: float) -> list[Failure]:
        """The failures of calls that began at `moment` or later."""
        return [failure for failure in self.failures if failure.began >= moment]

    def _call(self, expected: Expected) -> None:
        context = client_context(expected.target)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                with connect(expected.target, context) as connection:
                    service = ask(connection)
            except OSError as error:
                self.failures.append(Failure(expected.route, began, time.monotonic(), repr(error)))
                continue
            ended = time.monotonic()
            if service not in expected.services:
                self.failures.append(Failure(expected.route, began, ended, f"answered by {service}"))
            self.answered.append(ended)
            self._stop.wait(PAUSE_S)


class LongConnection:
    """One connection that asks and hears an answer all the time, in a thread of its own."""

    def __init__(self, expected: Expected, connection: ssl.SSLSocket) -> None:
        self.connection = connection
        self.answers = 0
        self.error: str | None = None
        self._expected = expected
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._talk, name=f"long connection to {expected.route}")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End it; `error` then says how it went."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(LIMIT_S)
        self.connection.close()

    def wait_answers(self, count: int, limit_s: float = LIMIT_S) -> None:
        """Wait until it has got `count` more answers."""
        wanted = self.answers + count
        deadline = time.monotonic() + limit_s
        while self.answers < wanted:
            assert self.error is None, self.error
            assert time.monotonic() < deadline, f"fewer than {count} answers in {limit_s:g} s"
            time.sleep(0.005)

    def wait_end(self, limit_s: float = LIMIT_S) -> None:
        """Wait until it has failed."""
        deadline = time.monotonic() + limit_s
        while self.error is None:
            assert time.monotonic() < deadline, "the connection lives on"
            time.sleep(0.005)

    def _talk(self) -> None:
        try:
            while not self._stop.is_set():
                service = ask(self.connection)
                assert service in self._expected.services, f"answered by {service}"
                self.answers += 1
                self._stop.wait(PAUSE_S)
        except (OSError, AssertionError) as error:
            self.error = repr(error)
