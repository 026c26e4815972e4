"""What processes have used: CPU time in nanoseconds, private memory and PSS in bytes, and who is whose child.

CPU time comes from the kernel's per-process CPU clock (`clock_getcpuclockid(3)`): the same account as utime + stime
of /proc/<pid>/stat, ended threads included, but in nanoseconds instead of ticks of 10 ms.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class ProcessGone(Exception):
    """A process that was to be measured has ended."""


def parse_stat(text: str) -> tuple[int, int, int]:
    """Return (parent pid, utime, stime) in clock ticks from the text of /proc/<pid>/stat (proc(5)).

    The command name stands in parentheses and may hold spaces and parentheses itself, so fields are counted from
    the last closing one.
    """
    fields = text[text.rindex(")") + 1 :].split()
    return int(fields[1]), int(fields[11]), int(fields[12])


def start_time(pid: int) -> int | None:
    """Return when a process started, in ticks since boot, or None when it is gone.

    Pid and start time together name a process even after the pid was given to another one.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 1 :].split()
    return None if fields[0] == "Z" else int(fields[19])


def stat_cpu_ns(pid: int) -> int:
    """Return utime + stime of a process from /proc, in nanoseconds with the resolution of a clock tick."""
    try:
        _, utime, stime = parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessGone(f"process {pid} has ended") from error
    return (utime + stime) * _TICK_NS


def process_cpu_ns(pid: int) -> int:
    """Return the CPU time of a process, all its threads together, in nanoseconds."""
    clock = (~pid << 3) | 2  # CPUCLOCK_SCHED of the whole process, see include/linux/posix-timers.h
    try:
        return time.clock_gettime_ns(clock)
    except OSError as error:
        if not Path(f"/proc/{pid}").exists():
            raise ProcessGone(f"process {pid} has ended") from error
        return stat_cpu_ns(pid)


def cpu_ns(pids: Iterable[int]) -> int:
    """Return the CPU time of all these processes together."""
    return sum(process_cpu_ns(pid) for pid in pids)


def tree(root: int) -> list[int]:
    """Return the pids of a process and all its descendants, sorted; empty when it is gone."""
    children: dict[int, list[int]] = {}
    alive = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            parent, _, _ = parse_stat(Path(f"/proc/{entry}/stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
        alive.add(int(entry))
        children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    pending = [root] if root in alive else []
    while pending:
        pid = pending.pop()
        found.append(pid)
        pending += children.get(pid, [])
    return sorted(found)


def parse_sizes(text: str) -> dict[str, int]:
    """Return the figures of /proc/<pid>/smaps_rollup or /proc/meminfo in bytes, by name."""
    figures = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            figures[name] = int(words[0]) * 1024
    return figures


def _rollup(pid: int) -> dict[str, int]:
    try:
        return parse_sizes(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessGone(f"process {pid} has ended") from error


def private_bytes(pids: Iterable[int]) -> int:
    """Return the memory that belongs to these processes alone (Private_Clean + Private_Dirty)."""
    return sum(f["Private_Clean"] + f["Private_Dirty"] for f in map(_rollup, pids))


def pss_bytes(pids: Iterable[int]) -> int:
    """Return the proportional set size of these processes: shared pages counted once, divided by their users."""
    return sum(_rollup(pid)["Pss"] for pid in pids)
