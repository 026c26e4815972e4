"""The program that shows what the proxy promises, at a small size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.calls import missing_clients
from tools.changes.show import missing_programs

PROGRAM = Path(__file__).resolve().parents[2] / "tools" / "shows.py"
MISSING = [*missing_clients(), *missing_programs()]


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
@pytest.mark.parametrize(
    ("show", "size", "said"),
    [
        ("demo", [], "Symphony works"),
        ("calls", ["--calls", "12"], "right: 12 of 12"),
        ("bulk", ["--mib", "4"], "4 MiB in"),
        ("sessions", [], "0 missed"),
        (
            "changes",
            ["--reloads", "16", "--upgrades", "2"],
            "not 2xx 0, connect 0, read 0, write 0, timeout 0",
        ),
    ],
    ids=["demo", "calls", "bulk", "sessions", "changes"],
)
def test_every_show_is_kept(tmp_path: Path, show: str, size: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--only", show, *size],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("== ") == done.stdout.count("   kept (") == 1
    assert said in done.stdout
