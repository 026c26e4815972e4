"""The tool that makes the README's frame of ``symphony top``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_frame_shows_an_instance_at_work() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "frame.py"), "--seconds", "5"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    rows = {line.split()[0]: line.split() for line in lines if line.strip()}
    readme = (ROOT / "README.md").read_text().partition("## At a glance")[2].partition("\n## ")[0]
    for heading in ("actor", "listener", "route", "upstream", "blocked", "ended"):
        assert rows[heading][0] in readme
    # Of the same columns as the one that is shown.
    for heading in ("actor  ", "listener  ", "route by", "upstream  "):
        shown, made = (
            next(line for line in text if line.startswith(heading)) for text in (readme.splitlines(), lines)
        )
        assert shown.split() == made.split()
    assert rows["shop.example.com"][1] in ("2/3", "3/3")
    assert float(rows["shop.example.com"][3]) > 0
    # The last word on a source is the one that refuses it at present.
    assert rows["127.0.0.7"][1] in ("penalty_boxed", "rate_limited")
