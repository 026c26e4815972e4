"""The process that callgrind watches: ``python -m tools.micro.counted CASE...``.

It calls :func:`os.getppid` between the parts, which nothing else here calls, so that callgrind can be told to write
down and reset its counts there. Per case: one part to get ready, one of `CALLS` calls, one of `MORE_CALLS`. The
difference between the last two is free of what the loop and the mark themselves cost.
"""

from __future__ import annotations

import gc
import os
import sys

from tools.micro.cases import Call, select

MARK = "getppid"
WARM_UP = 300
CALLS = 200
MORE_CALLS = 1200
PARTS = 3
"""Marks for each case."""


def _repeat(call: Call, times: int) -> None:
    for _ in range(times):
        call()


def main() -> int:
    """Run the cases named on the command line."""
    gc.disable()
    for case in select(sys.argv[1:]):
        call = case.prepare()
        _repeat(call, WARM_UP)
        gc.collect()
        os.getppid()
        _repeat(call, CALLS)
        os.getppid()
        _repeat(call, MORE_CALLS)
        os.getppid()
    return 0


if __name__ == "__main__":
    sys.exit(main())
