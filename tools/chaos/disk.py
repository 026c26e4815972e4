"""A disk that is small, and one that is full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_BYTES = 1 << 20
_WITHIN_S = 10.0


def mount_small_disk(directory: Path) -> str:
    """Put a directory on a disk of `DISK_BYTES` of its own; return why that cannot be done, if it cannot."""
    if os.geteuid() != 0:
        return "only root may mount a small disk"
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(directory)]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=_WITHIN_S, check=False
        )
    except FileNotFoundError:
        return "there is no mount program"
    return "" if done.returncode == 0 else f"no small disk can be mounted: {done.stderr.strip()}"


def unmount(directory: Path) -> None:
    """Take the disk away, now or as soon as nobody uses it any more."""
    command = ["umount", "-l", str(directory)]
    subprocess.run(command, capture_output=True, timeout=_WITHIN_S, check=False)  # noqa: S603


@contextmanager
def filled(directory: Path) -> Iterator[None]:
    """Leave no room on a directory's disk."""
    filler = directory / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        yield
    finally:
        filler.unlink(missing_ok=True)
