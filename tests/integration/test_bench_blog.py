"""The echo benchmark as a command, its application in both languages, and a way of serving that fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tools.bench import blog, certs
from tools.bench.asking import ask
from tools.bench.backend import Backend
from tools.bench.blog import Application, EchoReport, find_application
from tools.bench.content import SERVER_NAME
from tools.bench.pair import ROOT, Cores
from tools.bench.peers import Service
from tools.bench.ports import free_port
from tools.bench.running import running
from tools.bench.workspace import Workspace

PYTHON = Application("Python", (sys.executable, str(blog.APP / "app.py")))
NODE = Application("node", ("node", str(blog.APP / "app.cjs")))
ANYWHERE = Cores(None, None)


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    directory = Path(tempfile.mkdtemp(prefix="sy", dir="/tmp"))
    pair = certs.make(directory, SERVER_NAME, "ecdsa")
    backend = Backend(directory, pair, None)
    yield Workspace(directory, pair, pair, backend)
    backend.stop()
    shutil.rmtree(directory)


def test_a_short_run_measures_three_ways_and_four_sizes() -> None:
    directory = Path(tempfile.mkdtemp(prefix="sy", dir="/tmp"))
    try:
        files = ["--json", str(directory / "echo.json"), "--doc", str(directory / "echo.md")]
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools" / "bench"), "blog", "--iterations", "1", "--scale", "0.02", *files],
            capture_output=True, text=True, timeout=110, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        report = msgspec.json.decode((directory / "echo.json").read_bytes(), type=EchoReport)
        assert {(point.way, point.size) for point in report.points} == {
            (way, size) for way in blog.WAYS for size in blog.SIZES
        }
        assert all(p.p50_us > 0 and p.per_second > 0 and p.cpu_us > 0 for p in report.points)
        assert report.failed == {}
        assert report.application == find_application().name
        assert "behind Symphony" in (directory / "echo.md").read_text()
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("application", [PYTHON, NODE], ids=lambda application: application.name)
@pytest.mark.parametrize("way", ["plain", "https"])
def test_the_application_echoes(space: Workspace, application: Application, way: str) -> None:
    if shutil.which(application.program[0]) is None:
        pytest.skip(f"{application.name} is not installed")
    service = Service(space.directory, free_port(), space.backend.plain, space.ecdsa)
    with running(blog.Alone(application, way), service, None) as served:
        for size in blog.SIZES:
            ask(served.port, f"echo-{size}", plain=way == "plain")
        with pytest.raises(TimeoutError):  # its empty answer is not the one that was asked for
            ask(served.port, "small", plain=way == "plain", timeout_s=0.3)


def test_a_way_that_fails_is_left_out_and_the_others_stay(space: Workspace) -> None:
    """The application only knows Unix sockets and plain ports here, so it ends when asked for HTTPS."""
    script = space.directory / "app.py"
    script.write_text(
        "import runpy, sys\n"
        "if sys.argv[1] == 'https':\n"
        "    sys.exit('no TLS here')\n"
        f"runpy.run_path({str(blog.APP / 'app.py')!r}, run_name='__main__')\n"
    )
    said: list[str] = []
    application = Application("half", (sys.executable, str(script)))
    points, failed = blog.run(space, ANYWHERE, application, 1, 0.02, said.append, lambda: None)
    assert {point.way for point in points} == {"plain", "symphony"}
    assert list(failed) == ["https"]
    assert "no TLS here" in failed["https"]
    assert len(said) == 3
