"""One upstream: what is counted for it over all acceptors, how it fares, and how a configured entry wants it used."""

from __future__ import annotations

from time import monotonic_ns

from structlog import get_logger

from symphony.config.model import HealthCheck, UdsUpstream, Upstream
from symphony.observe.record_area import (
    BYTES_DOWN,
    BYTES_UP,
    CHECK,
    CHECKING,
    CONNECT_US,
    CONNECTIONS,
    FAILURES,
    STATEMENT,
    TALLY,
    UPSTREAM_WORDS,
    RecordArea,
)
from symphony.observe.records import Record
from symphony.routing.health import Health, checked_at, failures, tally_failure

_NEVER = 1 << 62
_STALE_CHECKS = 10

log = get_logger("upstream")


def now_ms() -> int:
    """The time as :mod:`symphony.routing.health` counts it."""
    return monotonic_ns() // 1_000_000


class UpstreamRecord(Record):
    """An upstream's record, one per label, whichever routes name it and whatever they say of it besides.

    An attempt to connect counts as active from its beginning, so that a burst of connections spreads. It ends by
    :meth:`failed`, :meth:`abandoned`, or, after :meth:`connected`, by :meth:`closed`.

    What this acceptor finds out about the upstream's health it says in shared memory, and it takes what the others say
    (:meth:`listen`). Whoever finds out logs it. `impaired` has the labels of all upstreams that there is something
    against, as far as this acceptor knows.
    """

    __slots__ = ("_area", "_heed_from", "_impaired", "health")

    SIZE = UPSTREAM_WORDS

    def __init__(self, key: str, impaired: set[str]) -> None:
        super().__init__(key)
        self.health = Health()
        self._impaired = impaired
        self._heed_from = _NEVER
        self._area: RecordArea | None = None

    # What connections do

    def begin(self) -> None:
        """An attempt to connect begins."""
        self.words[self.at] += 1
        if self._impaired:
            self.health.attempt()

    def connected(self, took_us: int) -> None:
        """The attempt has led to a connection."""
        words, at = self.words, self.at
        words[at + CONNECTIONS] += 1
        words[at + CONNECT_US] += took_us
        self.took(took_us / 1e6)
        if self._impaired and self.health.succeeded(now_ms()):
            self._state("a connection was taken")

    def failed(self, max_fails: int, fail_timeout_ms: int, because: str) -> None:
        """The attempt has failed, and the upstream is to blame. With `max_fails` 0 nothing follows from that."""
        words, at, health = self.words, self.at, self.health
        words[at] -= 1
        words[at + FAILURES] += 1
        if not max_fails:
            health.abandoned()
            return
        self.listen()  # another acceptor may have come to the same conclusion just now
        now = now_ms()
        words[at + TALLY] = tally_failure(words[at + TALLY], now, fail_timeout_ms)
        lately = failures(self.said(TALLY), max(now - fail_timeout_ms, health.stated_at))
        if health.failed(now, lately >= max_fails, fail_timeout_ms):
            self._state(f"{lately} connections failed, the last one: {because}")

    def abandoned(self) -> None:
        """The attempt or the connection is over, and says nothing about the upstream."""
        self.words[self.at] -= 1
        self.health.abandoned()

    def closed(self, up: int, down: int) -> None:
        """The connection is over, with so many bytes moved."""
        words, at = self.words, self.at
        words[at] -= 1
        if up or down:
            words[at + BYTES_UP] += up
            words[at + BYTES_DOWN] += down

    # What health checks do

    def heed_checks(self, settings: HealthCheck | None) -> None:
        """Heed health checks from now on, of whichever acceptor; with None, heed none any more."""
        if settings is None:
            self._heed_from = _NEVER
            self.health.forget_checks()
            self.words[self.at + CHECK] = self.words[self.at + CHECKING] = 0
            self._note("it is not checked any more")
        elif self._heed_from == _NEVER:
            # What was found out before checks were given up, a while ago, says nothing about now.
            self._heed_from = now_ms() - _STALE_CHECKS * settings.interval_ms
            self.listen()

    def last_check(self) -> tuple[int, int]:
        """When a check was begun for the last time, and when one was ended, by any acceptor; 0 for never."""
        return max(self.said(CHECKING)), checked_at(max(self.said(CHECK)))

    def check_begins(self) -> None:
        """This acceptor begins a check."""
        self.words[self.at + CHECKING] = now_ms()

    def check_ended(self, settings: HealthCheck, failure: str) -> None:
        """It has ended, with "" for `failure` where all was well."""
        self.listen()
        health, now = self.health, now_ms()
        was_down = health.down
        health.checked(now, not failure, settings.rise, settings.fall)
        self.words[self.at + CHECK] = health.check
        if not failure and health.succeeded(now):
            self._state("a health check succeeded")
        elif health.down != was_down:
            self._announce()
            self._note(failure or "health checks succeed")

    # What this acceptor and the others say

    def listen(self) -> None:
        """Take what other acceptors have found out."""
        health = self.health
        known = health.statement
        check = max(self.said(CHECK))
        health.hear(max(self.said(STATEMENT)), check if checked_at(check) >= self._heed_from else 0)
        if health.statement != known:
            self.words[self.at + TALLY] = 0
        if health.impaired:
            self._impaired.add(self.key)
        else:
            self._impaired.discard(self.key)

    def take(self, area: RecordArea, views: tuple[memoryview, ...], number: int) -> None:
        """Count at `number`; what the others say of this upstream there is heard at once."""
        super().take(area, views, number)
        self._area = area
        self.listen()

    def make_private(self) -> None:
        """Count alone, and say nothing any more."""
        super().make_private()
        self._area = None

    def _state(self, because: str) -> None:
        self.words[self.at + STATEMENT] = self.health.statement
        self.words[self.at + TALLY] = 0  # what led to this does not count again
        self._announce()
        self._note(because)

    def _announce(self) -> None:
        if self._area is not None:
            self._area.announce(self.number)

    def _note(self, because: str) -> None:
        """Keep `impaired` up to date, and log a change that this acceptor has found out."""
        impaired, key = self.health.impaired, self.key
        if impaired == (key in self._impaired):
            return
        if impaired:
            self._impaired.add(key)
            log.warning("upstream_down", upstream=key, because=because)
        else:
            self._impaired.discard(key)
            log.info("upstream_up", upstream=key, because=because)


class UpstreamSlot:
    """A configured upstream as this process sees it. `thread` is the (pid, tid) whose CPU use counts, or None."""

    __slots__ = ("__weakref__", "cpu_permille", "record", "thread", "upstream", "weight")

    def __init__(self, upstream: Upstream, record: UpstreamRecord) -> None:
        self.upstream = upstream
        self.record = record
        self.weight = upstream.weight
        self.cpu_permille = 0
        self.thread: tuple[int, int] | None = None
        if isinstance(upstream, UdsUpstream) and upstream.pid is not None and upstream.tid is not None:
            self.thread = (upstream.pid, upstream.tid)

    @property
    def active(self) -> int:
        """Connections open to the upstream now, over all acceptors and all routes."""
        return self.record.active

    def failed(self, because: str) -> None:
        """An attempt to connect has failed, and the upstream is to blame."""
        upstream = self.upstream
        self.record.failed(upstream.max_fails, upstream.fail_timeout_ms, because)

    def __repr__(self) -> str:
        return f"<UpstreamSlot {self.upstream.label} active={self.active} cpu_permille={self.cpu_permille}>"
