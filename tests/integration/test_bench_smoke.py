"""The benchmark program as a whole: a short run beside Symphony itself, its backend, and what it leaves behind."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tools.bench import certs, cpu
from tools.bench.backend import Backend
from tools.bench.content import DOWN, MEBIBYTE, SMALL, UP, VERIFIED, request_for
from tools.bench.outcome import Report

ROOT = Path(__file__).resolve().parents[2]
SMOKE_LIMIT_S = 60


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sy", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def test_smoke_run_measures_two_axes(directory: Path) -> None:
    figures = directory / "figures.json"
    document = directory / "benchmarks.md"
    command = [sys.executable, str(ROOT / "tools" / "bench"), "--smoke", "--peers", "symphony"]
    done = subprocess.run(
        [*command, "--json", str(figures), "--doc", str(document)],
        capture_output=True,
        text=True,
        timeout=SMOKE_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = msgspec.json.decode(figures.read_bytes(), type=Report)
    assert {figure.axis for figure in report.figures} == {"small-25", "handshake-ecdsa-1.3"}
    for figure in report.figures:
        assert figure.value is not None
        assert figure.value.median > 0
        assert (figure.ratio is not None) == bool(report.reference)
    assert document.read_text().startswith("# Benchmarks\n")
    assert "symphony" in done.stdout


def test_an_unknown_axis_or_proxy_is_named() -> None:
    for option, name in (("--only", "smal"), ("--peers", "ngin")):
        command = [sys.executable, "-m", "tools.bench", option, name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=ROOT)
        assert done.returncode == 2
        assert f"'{name}'" in done.stderr


def test_terminated_run_leaves_nothing_behind() -> None:
    command = [
        sys.executable,
        "-m",
        "tools.bench",
        "--only",
        "small-25",
        "--peers",
        "symphony",
        "--pairs",
        "50",
    ]
    before = set(Path("/tmp").glob("sybench-*"))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    try:
        started: dict[int, int | None] = {}
        deadline = time.monotonic() + 40
        while not any("symphony" in _name(pid) for pid in started):
            assert time.monotonic() < deadline, "the proxy was not started"
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            started = {pid: cpu.start_time(pid) for pid in cpu.tree(process.pid)}
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=40)
        assert process.returncode == 128 + signal.SIGTERM
        left = [pid for pid, since in started.items() if since is not None and cpu.start_time(pid) == since]
        assert left == []
        assert set(Path("/tmp").glob("sybench-*")) <= before
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=20)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").partition("--peers")[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _ask(path: Path, request: bytes, length: int) -> bytes:
    """Send a request and read a body of `length` bytes, at once, as a client of the backend does."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        sent, answer = 0, b""
        sock.setblocking(False)
        deadline = time.monotonic() + 20
        while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < length:
            assert time.monotonic() < deadline, "no answer"
            try:
                sent += sock.send(request[sent:]) if sent < len(request) else 0
            except BlockingIOError:
                pass
            try:
                data = sock.recv(1 << 20)
            except BlockingIOError:
                time.sleep(0.001)
                continue
            if not data:
                break
            answer += data
        return answer.partition(b"\r\n\r\n")[2] if answer.startswith(b"HTTP/1.1 200 ") else answer


@pytest.fixture
def backend(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    running = Backend(directory, certs.make(directory, "bench.test", "ecdsa"), None)
    yield running
    running.stop()


def test_backend_serves_what_the_client_expects(backend: Backend) -> None:
    for path in {backend.plain, backend.sink}:
        for kind, body in (("small", SMALL), ("down", DOWN)):
            assert _ask(path, request_for(kind)[0], len(body)) == body
    assert _ask(backend.sink, request_for("up")[0], len(VERIFIED)) == VERIFIED
    assert _ask(backend.sink, request_for("both")[0], MEBIBYTE + len(VERIFIED)) == DOWN + VERIFIED


def test_a_flipped_bit_in_an_upload_is_seen(backend: Backend) -> None:
    for kind, length in (("up", 0), ("both", MEBIBYTE + len(VERIFIED))):
        request = bytearray(request_for(kind)[0])
        request[-MEBIBYTE // 2] ^= 1
        assert bytes(request[-MEBIBYTE:]) != UP
        answer = _ask(backend.sink, bytes(request), length)
        assert answer.startswith(b"HTTP/1.1 500 ") or answer.endswith(b"BROKEN!!")
