"""What every measurement stands on: a fresh directory, certificates and the backend; all of it gone afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.bench import certs
from tools.bench.backend import Backend
from tools.bench.content import SERVER_NAME
from tools.bench.pair import ROOT


@dataclass(frozen=True)
class Workspace:
    """Where things are."""

    directory: Path
    ecdsa: certs.KeyPair
    rsa: certs.KeyPair
    backend: Backend


def clean_up_when_terminated() -> None:
    """Make SIGTERM end this program as Ctrl-C does, so that everything that was started is stopped."""

    def interrupt(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, interrupt)


@contextlib.contextmanager
def workspace(core: set[int] | None) -> Iterator[Workspace]:
    """Make everything, with the backend on the given cores, and clean up."""
    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = str(ROOT)
    directory = Path(tempfile.mkdtemp(prefix="sybench-", dir="/tmp"))
    backend = None
    try:
        ecdsa, rsa = (certs.make(directory, SERVER_NAME, algorithm) for algorithm in ("ecdsa", "rsa"))
        backend = Backend(directory, ecdsa, core)
        yield Workspace(directory, ecdsa, rsa, backend)
    finally:
        if backend is not None:
            backend.stop()
        shutil.rmtree(directory, ignore_errors=True)
