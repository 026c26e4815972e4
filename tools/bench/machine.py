"""The machine that is measured on, and which of its cores do what."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from OpenSSL import SSL

from tools.bench import kernel
from tools.bench.outcome import Machine
from tools.bench.pair import Cores
from tools.bench.process import raise_descriptor_limit


def parse_processor(text: str) -> str:
    """Return the processor's name from the text of /proc/cpuinfo."""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()


def describe() -> Machine:
    """Return what a reader has to know about this machine to judge the figures."""
    return Machine(
        processor=parse_processor(Path("/proc/cpuinfo").read_text()),
        cores=len(os.sched_getaffinity(0)),
        memory_mb=kernel.total_bytes() // 2**20,
        kernel=platform.release(),
        python=platform.python_version(),
        openssl=SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode(),
        descriptors=raise_descriptor_limit(),
        load_average=round(os.getloadavg()[0], 2),
    )


def divide(available: set[int]) -> tuple[Cores, str]:
    """Return which core the proxies share and which the load and the backend; and a warning, empty if none."""
    ordered = sorted(available)
    if len(ordered) < 2:
        return Cores(None, None), (
            "fewer than two cores: load, backend and proxies disturb each other, so the ratios mean less"
        )
    return Cores({ordered[0]}, {ordered[1]}), ""
