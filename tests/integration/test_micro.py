"""The instruction count as a command: with a real callgrind, and where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tools.micro import count
from tools.micro.__main__ import main
from tools.micro.cases import select

ROOT = Path(__file__).resolve().parents[2]
CASE = "pick-1"


def _run() -> tuple[int, str]:
    done = CliRunner().invoke(main, ["count", CASE], catch_exceptions=False)
    return done.exit_code, " ".join(done.output.split())


@pytest.mark.timeout(600)  # under callgrind, and on a busy machine
def test_a_count_repeats() -> None:
    if reason := count.unavailable():
        pytest.skip(reason)
    first, second = (count.count(select([CASE])) for _ in range(2))
    assert 100 < first[CASE] < 100_000
    assert not count.compare(second, first)[0].regressed
    assert not count.compare(first, second)[0].regressed


def test_a_regression_is_told_from_an_unknown_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = tmp_path / "baseline.json"
    monkeypatch.setattr(count.read_baseline, "__defaults__", (baseline,))
    monkeypatch.setattr(count, "count", lambda cases: {case.name: 1100.0 for case in cases})
    code, said = _run()
    assert code == 0
    assert "not compared: the baseline has nothing for this environment" in said
    count.store({CASE: 1090.0}, baseline)
    code, said = _run()
    assert (code, "regressed" in said) == (0, False), said
    count.store({CASE: 1000.0}, baseline)
    code, said = _run()
    assert code == 1
    assert f"regressed: {CASE} takes 10.0% more instructions" in said


def test_without_valgrind_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.micro", "count", CASE]
    environment = dict(os.environ, PATH=str(tmp_path))
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("skipped: valgrind is not installed")


def test_an_unknown_case_is_named() -> None:
    done = CliRunner().invoke(main, ["count", "pic"])
    assert done.exit_code == 2
    assert "no case 'pic'" in done.output
