"""Instructions per call, counted by valgrind's callgrind and compared with a stored baseline."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from tools.micro.cases import Case
from tools.micro.counted import CALLS, MARK, MORE_CALLS, PARTS

ROOT = Path(__file__).resolve().parents[2]
BASELINE = Path(__file__).with_name("baseline.json")
TOLERANCE = 0.03
"""A call may take so much more than the baseline; changes below that are not told apart from chance."""
LIMIT_S = 600

_TOTALS = re.compile(rb"^totals: (\d+)$", re.MULTILINE)


class CannotCount(Exception):
    """Instructions cannot be counted here; says why."""


class Baseline(Struct):
    """Instructions per call by case, for each environment in which they were counted."""

    environments: dict[str, dict[str, float]]


class Comparison(Struct, frozen=True):
    """One case beside its baseline; `before` is None for a case that the baseline does not know."""

    name: str
    now: float
    before: float | None

    @property
    def change(self) -> float | None:
        """How much more it takes now, as a part of what it took: 0.1 is ten percent more."""
        return None if not self.before else self.now / self.before - 1

    @property
    def regressed(self) -> bool:
        """Whether it takes more than the tolerance allows."""
        return self.change is not None and self.change > TOLERANCE

    @property
    def improved(self) -> bool:
        """Whether it takes so much less that the baseline should be taken anew."""
        return self.change is not None and self.change < -TOLERANCE


def environment() -> str:
    """Return what decides about the number of instructions besides the code: interpreter, C library, msgspec."""
    build = " ".join(platform.python_build())
    libc = "-".join(platform.libc_ver())
    return (
        f"{platform.machine()}, {platform.python_implementation()} {platform.python_version()} ({build}, "
        f"{platform.python_compiler()}), {libc}, msgspec {msgspec.__version__}"
    )


def unavailable() -> str | None:
    """Return why nothing can be counted here, or None."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed (Debian: apt-get install valgrind)"
    return None


def parse_totals(text: bytes) -> int:
    """Return the number of instructions in one part of callgrind's output."""
    found = _TOTALS.search(text)
    if found is None:
        raise CannotCount("callgrind's output has no total")
    return int(found.group(1))


def per_call(totals: Sequence[int], names: Sequence[str]) -> dict[str, float]:
    """Return instructions per call from the totals of all parts: for each case getting ready, few calls, more calls."""
    if len(totals) != PARTS * len(names):
        raise CannotCount(f"callgrind wrote {len(totals)} parts for {len(names)} cases, not {PARTS} for each")
    counts = {}
    for index, name in enumerate(names):
        _, few, more = totals[PARTS * index : PARTS * (index + 1)]
        if more <= few:
            raise CannotCount(f"{name}: {MORE_CALLS} calls took {more} instructions, {CALLS} took {few}")
        counts[name] = round((more - few) / (MORE_CALLS - CALLS), 1)
    return counts


def count(cases: Sequence[Case]) -> dict[str, float]:
    """Return the instructions per call of every case. Raises CannotCount."""
    if reason := unavailable():
        raise CannotCount(reason)
    names = [case.name for case in cases]
    with tempfile.TemporaryDirectory(prefix="symicro-") as directory:
        output = Path(directory) / "counts"
        command = [
            "valgrind", "--tool=callgrind", f"--dump-before={MARK}", f"--callgrind-out-file={output}",
            sys.executable, "-m", "tools.micro.counted", *names,
        ]  # fmt: skip
        # Hashes of texts decide where they lie in a dictionary, and so how long it is searched.
        chosen = {"PATH": os.environ.get("PATH", ""), "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
        try:
            done = subprocess.run(  # noqa: S603
                command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=chosen, cwd=ROOT
            )
        except subprocess.TimeoutExpired as error:
            raise CannotCount(f"callgrind took longer than {LIMIT_S} s") from error
        if done.returncode:
            raise CannotCount(f"valgrind ended with code {done.returncode}: {done.stderr.strip()[-400:]}")
        parts = (output.with_name(f"counts.{number}") for number in range(1, PARTS * len(names) + 1))
        totals = [parse_totals(part.read_bytes()) for part in parts if part.exists()]
    return per_call(totals, names)


def read_baseline(path: Path = BASELINE) -> Baseline:
    """Return the stored baseline, an empty one when there is none."""
    return msgspec.json.decode(path.read_bytes(), type=Baseline) if path.exists() else Baseline({})


def store(counts: dict[str, float], path: Path = BASELINE) -> None:
    """Put the counts of this environment into the baseline; other environments and cases stay as they are."""
    baseline = read_baseline(path)
    baseline.environments.setdefault(environment(), {}).update(counts)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(baseline, order="sorted"), indent=2) + b"\n")


def compare(counts: dict[str, float], known: dict[str, float]) -> list[Comparison]:
    """Return every count beside its baseline."""
    return [Comparison(name, now, known.get(name)) for name, now in counts.items()]
