"""Reading threads' CPU times, and turning them into use."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from symphony.observe.cpu import CpuMeter, ThreadTimes, parse_stat, read_thread

FIELDS = "S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 1 0 987654 100 200"
TICKS = os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("name", ["app", "a b", "a) S (b", ")", "(((", "x) Z 1 2", ""])
def test_names_with_spaces_and_parentheses(name: str) -> None:
    assert parse_stat(f"77 ({name}) {FIELDS}\n".encode()) == ThreadTimes(175, 987654)


def test_zombies_have_no_times() -> None:
    assert parse_stat(b"77 (app) Z" + FIELDS.encode()[1:]) is None
    assert parse_stat(b"77 (app) X" + FIELDS.encode()[1:]) is None


@pytest.mark.parametrize("text", [b"", b"77 app S 1 2", b"77 (app) S 1 2 3", b"77 (app) " + b"S x" * 30])
def test_not_a_stat_file(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_stat(text)


def test_own_thread_and_missing_ones() -> None:
    pid, tid = os.getpid(), threading.get_native_id()
    times = read_thread(pid, tid)
    assert times is not None and times.start_time > 0
    assert read_thread(pid, 2**22) is None
    assert read_thread(2**22 + 1, 2**22 + 1) is None


def test_a_real_name_with_parentheses() -> None:
    text = "import setproctitle, time\nsetproctitle.setthreadtitle('a) Z (b c')\nprint(flush=True)\ntime.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline()
        with open(f"/proc/{process.pid}/stat", "rb") as file:
            assert b"(a) Z (b c)" in file.read()
        times = read_thread(process.pid, process.pid)
        assert times is not None and times.start_time > 0
    finally:
        process.kill()
        process.communicate(timeout=20)


def meter(readings: dict[tuple[int, int], ThreadTimes]) -> CpuMeter:
    return CpuMeter(lambda pid, tid: readings.get((pid, tid)))


def test_use_per_interval() -> None:
    a, b = (1, 1), (1, 2)
    readings = {a: ThreadTimes(1000, 7), b: ThreadTimes(50, 8)}
    cpu = meter(readings)
    assert cpu.sample([a, b], 10.0) == []
    readings[a] = ThreadTimes(1000 + TICKS // 4, 7)
    assert cpu.sample([a, b], 10.5) == [(1, 1, 500), (1, 2, 0)]
    readings[a] = ThreadTimes(1000 + TICKS, 7)
    assert cpu.sample([a], 11.0) == [(1, 1, 1000)]  # no more than a whole CPU, whatever the ticks say
    assert cpu.sample([a, b], 11.5) == [(1, 1, 0)]  # b was forgotten


def test_a_number_that_came_back_as_another_thread_starts_anew() -> None:
    a = (1, 1)
    readings = {a: ThreadTimes(1000, 7)}
    cpu = meter(readings)
    cpu.sample([a], 1.0)
    readings[a] = ThreadTimes(1010, 99)
    assert cpu.sample([a], 2.0) == []
    readings[a] = ThreadTimes(1010 + TICKS // 10, 99)
    assert cpu.sample([a], 3.0) == [(1, 1, 100)]
    del readings[a]
    assert cpu.sample([a], 4.0) == []


def test_a_busy_thread_is_measured() -> None:
    stop = threading.Event()
    found: list[int] = []

    def work() -> None:
        found.append(threading.get_native_id())
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not found:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        cpu, target = CpuMeter(), (os.getpid(), found[0])
        while True:
            use = {tid: permille for _, tid, permille in cpu.sample([target], time.monotonic())}
            if use.get(found[0], 0) >= 50:  # an idle one has 0; others may want the CPU, too
                break
            assert time.monotonic() < deadline, use
            time.sleep(0.2)
    finally:
        stop.set()
        thread.join(20)
