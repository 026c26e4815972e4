"""The storm tool, short: what it promises is kept, and it says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_short_storm() -> None:
    """Without a judgement of connect times, which are the machine's as much as the proxy's."""
    words = ("--seconds", "4", "--sources", "200", "--attackers", "10", "--untimed", "--seed", "7")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "storm.py"), *words],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\nkept: ") == 4
    assert "NOT KEPT" not in done.stdout
