"""Nanoseconds per call with pyperf: ``python -m tools.micro.timed [--case NAME]... [pyperf's options]``.

pyperf starts this program again for each of its processes, and hands the case names on.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache

import pyperf

from tools.micro.cases import Case, select


def _timing(case: Case) -> object:
    """Return a function that takes a number of loops and returns seconds; the case is made ready when first asked."""
    prepare = cache(case.prepare)

    def run(loops: int) -> float:
        call = prepare()
        numbers = range(loops)
        started = pyperf.perf_counter()
        for _ in numbers:
            call()
        return pyperf.perf_counter() - started

    return run


def _hand_on(command: list[str], options: argparse.Namespace) -> None:
    for name in options.case or ():
        command += ["--case", name]


def main() -> None:
    """Let pyperf run the cases."""
    runner = pyperf.Runner(
        program_args=("-m", "tools.micro.timed"), add_cmdline_args=_hand_on, values=3, processes=6
    )
    runner.argparser.add_argument(
        "--case", action="append", help="only this case; may be given more than once"
    )
    options = runner.parse_args()
    for case in select(options.case or ()):
        runner.bench_time_func(case.name, _timing(case))


if __name__ == "__main__":
    sys.exit(main())
