"""The benchmark's view of the system: processes, memory, ports; parsing, and real processes of our own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.bench import cpu, ports
from tools.bench.machine import divide, parse_processor
from tools.bench.process import Program

_STAT = (
    "412 (a (odd) name) S 77 412 412 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 99887 2 3 18446744073709551615 "
    "1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0"
)
_ROLLUP = """55d0c0a00000-7ffd4a9f2000 ---p 00000000 00:00 0                          [rollup]
Rss:               10240 kB
Pss:                5120 kB
Private_Clean:       100 kB
Private_Dirty:      2000 kB
"""
_TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:20FB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0
   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4244 1 0 100 0 0 10 0
   2: 0100007F:20FB 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4243 1 0 100 0 0 10 0
"""
_SPIN = """
import time
end = time.process_time() + 0.3
while time.process_time() < end:
    pass
print("spun", flush=True)
time.sleep(60)
"""
_STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(60)
"""
_FAMILY = """
import os, time
if os.fork() == 0:
    time.sleep(60)
print("forked", flush=True)
time.sleep(60)
"""


def _wait(condition: object, what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_stat_fields_are_counted_after_the_name() -> None:
    assert cpu.parse_stat(_STAT) == (77, 250, 50)


def test_rollup_is_in_bytes() -> None:
    figures = cpu.parse_sizes(_ROLLUP)
    assert figures["Pss"] == 5120 * 1024
    assert figures["Private_Clean"] + figures["Private_Dirty"] == 2100 * 1024


def test_the_clock_agrees_with_proc(tmp_path: Path) -> None:
    program = Program("spin", [sys.executable, "-c", _SPIN], tmp_path / "log", None)
    try:
        _wait(lambda: "spun" in program.tail(), "the process has not spun")
        clock, stat = cpu.process_cpu_ns(program.pid), cpu.stat_cpu_ns(program.pid)
        assert clock >= 300_000_000
        assert abs(clock - stat) <= 30_000_000  # a tick of utime and one of stime, and a margin
    finally:
        program.stop()


def test_a_tree_is_found_and_stopped_as_a_whole(tmp_path: Path) -> None:
    program = Program("family", [sys.executable, "-c", _FAMILY], tmp_path / "log", None)
    try:
        _wait(lambda: len(program.pids()) == 2, "the child is not there")
        pids = program.pids()
        assert program.pid in pids
        assert cpu.private_bytes(pids) > cpu.private_bytes([program.pid]) > 0
        assert cpu.pss_bytes(pids) > 0
    finally:
        program.stop()
    _wait(lambda: all(cpu.start_time(pid) is None for pid in pids), "a process was left behind")
    assert program.pids() == []


def test_a_program_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.bench.process.STOP_DEADLINE_S", 0.3)
    program = Program("stubborn", [sys.executable, "-c", _STUBBORN], tmp_path / "log", None)
    try:
        _wait(lambda: "up" in program.tail(), "the process is not up")
    finally:
        program.stop()
    assert program.exit_code == -signal.SIGKILL


def test_cores_are_set_for_the_child_alone(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    core = {min(before)}
    program = Program("sleep", ["sleep", "60"], tmp_path / "log", core)
    try:
        assert os.sched_getaffinity(program.pid) == core
        assert os.sched_getaffinity(0) == before
    finally:
        program.stop()


def test_a_process_that_is_gone_is_an_error() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(20)
    with pytest.raises(cpu.ProcessGone):
        cpu.process_cpu_ns(process.pid)


def test_listeners_are_told_from_connections() -> None:
    lines = _TCP.splitlines()
    assert ports.parse_listeners(lines, 0x20FB) == {4242}
    assert ports.parse_listeners(lines, 80) == {4244}
    assert ports.parse_listeners(lines, 81) == set()


def test_reading_ends_where_the_connections_begin() -> None:
    endless = iter([*_TCP.splitlines(), "not a line of the table"])
    assert ports.parse_listeners(endless, 80) == {4244}
    assert list(endless) == ["not a line of the table"]


def test_a_port_of_somebody_else_is_refused() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert not ports.owned_by(port, [os.getpid()])
        sock.listen()
        assert ports.owned_by(port, [os.getpid()])
        with pytest.raises(ports.PortTaken, match="did not start"):
            ports.owned_by(port, [])
    assert ports.listening_inodes(port) == set()


def test_the_machine_is_described_from_proc() -> None:
    assert parse_processor("processor : 0\nmodel name\t: A CPU @ 2 GHz\nflags : x\n") == "A CPU @ 2 GHz"
    assert cpu.parse_sizes("MemTotal:        2048000 kB\nMemFree: 1 kB\n")["MemTotal"] == 2048000 * 1024


def test_cores_are_divided_or_the_reader_is_warned() -> None:
    cores, warning = divide({3, 1, 2})
    assert (cores.proxies, cores.load, warning) == ({1}, {2}, "")
    cores, warning = divide({0})
    assert cores.proxies is None
    assert "mean less" in warning
