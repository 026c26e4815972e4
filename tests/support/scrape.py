"""The admin interface of a running instance, asked over its Unix socket; what it says, as numbers."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.symphony_process import SymphonyProcess

LIMIT_S = 15.0

Key = tuple[str, tuple[tuple[str, str], ...]]


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=LIMIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LIMIT_S)
        self.sock.connect(str(self._path))


def ask(symphony: SymphonyProcess, path: str) -> tuple[int, bytes]:
    """The status and the body."""
    connection = UnixConnection(symphony.runtime_dir / "admin-http.sock")
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Scrape:
    """One scrape of all metrics."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.values: dict[Key, float] = {}
        self.names: set[str] = set()
        self.counters: dict[Key, float] = {}
        for family in text_string_to_metric_families(text):
            assert family.documentation, family.name
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                assert key not in self.values, key
                self.values[key] = sample.value
                self.names.add(sample.name)
                if family.type in ("counter", "histogram"):
                    self.counters[key] = sample.value

    def of(self, name: str, **labels: str) -> float | None:
        """The value with exactly these labels."""
        return self.values.get((name, tuple(sorted(labels.items()))))

    def total(self, name: str, **labels: str) -> float:
        """The sum of all that have these labels among theirs."""
        wanted = labels.items()
        return sum(
            value
            for (found, theirs), value in self.values.items()
            if found == name and wanted <= dict(theirs).items()
        )

    def gone_back(
        self, earlier: Scrape, but: Callable[[Mapping[str, str]], bool] = lambda labels: False
    ) -> list[str]:
        """Every counter that was higher before or is missing now, unless `but` says so of its labels."""
        return [
            f"{name}{dict(labels)}: {value} -> {self.counters.get((name, labels))}"
            for (name, labels), value in earlier.counters.items()
            if self.counters.get((name, labels), -1) < value and not but(dict(labels))
        ]


def scrape(symphony: SymphonyProcess) -> Scrape:
    status, body = ask(symphony, "/metrics")
    assert status == 200, body
    return Scrape(body.decode())


def scrape_until(symphony: SymphonyProcess, condition: Callable[[Scrape], bool]) -> Scrape:
    """The first scrape that fulfils `condition`."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            found = scrape(symphony)
        except OSError:  # the admin actor is away
            assert time.monotonic() < deadline
            time.sleep(0.05)
            continue
        if condition(found):
            return found
        assert time.monotonic() < deadline, found.text
        time.sleep(0.05)
