"""The program that shows what the proxy promises, at a small size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.calls import missing_clients

PROGRAM = Path(__file__).resolve().parents[2] / "tools" / "shows.py"


@pytest.mark.skipif(bool(missing_clients()), reason=f"not installed: {', '.join(missing_clients())}")
def test_every_show_is_kept(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--calls", "12", "--mib", "4"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("== ") == done.stdout.count("   kept (") == 4
    assert "right: 12 of 12" in done.stdout
