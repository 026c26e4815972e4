"""How much CPU single threads use, from ``/proc/<pid>/task/<tid>/stat`` (proc_pid_stat(5))."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Positions behind the command name, which is field 2.
_STATE, _UTIME, _STIME, _START_TIME = 3 - 3, 14 - 3, 15 - 3, 22 - 3
_ENDED = (b"Z", b"X", b"x")


class ThreadTimes(NamedTuple):
    """A thread's CPU time in clock ticks, and when it was started (in ticks since boot)."""

    ticks: int
    start_time: int


def parse_stat(text: bytes) -> ThreadTimes | None:
    """Read the contents of a stat file; None for a zombie. Raises ValueError when it is none.

    The command name stands in parentheses and may have spaces and parentheses itself, so fields are counted
    from the last closing one.
    """
    _, found, rest = text.rpartition(b")")
    fields = rest.split()
    if not found or len(fields) <= _START_TIME:
        raise ValueError(f"not a stat file: {text[:64]!r}")
    if fields[_STATE] in _ENDED:
        return None
    return ThreadTimes(int(fields[_UTIME]) + int(fields[_STIME]), int(fields[_START_TIME]))


def read_thread(pid: int, tid: int) -> ThreadTimes | None:
    """Return the times of a thread, or None when it is gone or hidden from this user."""
    try:
        with open(f"/proc/{pid}/task/{tid}/stat", "rb", buffering=0) as file:
            return parse_stat(file.read(4096))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


class _Seen(NamedTuple):
    at: float
    times: ThreadTimes


class CpuMeter:
    """Turns successive readings into use per interval.

    Permille of one CPU, 0 to 1000. The kernel counts in ticks of 10 ms, so one tick more or less in 250 ms is
    40.
    """

    def __init__(self, read: Callable[[int, int], ThreadTimes | None] = read_thread) -> None:
        self._read = read
        self._seen: dict[tuple[int, int], _Seen] = {}

    def sample(self, threads: Iterable[tuple[int, int]], now: float) -> list[tuple[int, int, int]]:
        """Read each (pid, tid) at monotonic time `now`; return (pid, tid, permille) since the last reading.

        A thread seen for the first time is left out, and so is one whose number now belongs to another
        thread. Threads that are no longer asked for are forgotten.
        """
        before, self._seen = self._seen, {}
        use: list[tuple[int, int, int]] = []
        for thread in threads:
            times = self._read(*thread)
            if times is None:
                continue
            self._seen[thread] = _Seen(now, times)
            last = before.get(thread)
            if last is None or last.times.start_time != times.start_time or now <= last.at:
                continue
            share = (times.ticks - last.times.ticks) / _TICKS_PER_SECOND / (now - last.at)
            use.append((*thread, min(1000, max(0, round(share * 1000)))))
        return use
