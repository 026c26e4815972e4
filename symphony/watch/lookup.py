"""Which directory entries the meaning of a path hangs on: one for every step of its lookup, links included.

``/etc/certs/tls.crt``, where Kubernetes has made it a link to ``..data/tls.crt`` and ``..data`` one to ``..2026_1``,
hangs on ``etc`` in ``/``, ``certs`` in ``/etc``, ``tls.crt`` and ``..data`` in ``/etc/certs``, and so on. A change to
any of them may give the path another file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

_MOST_LINKS = 40  # as the kernel (path_resolution(7))


def entries(paths: Iterable[str]) -> dict[str, set[str]]:
    """Return, by directory, the names of the entries that the absolute `paths` hang on.

    What is missing is named all the same, so that it is noticed when it comes.
    """
    found: dict[str, set[str]] = {}
    links: dict[str, str | None] = {}
    for path in paths:
        _walk(path, found, links)
    return found


def _walk(path: str, found: dict[str, set[str]], links: dict[str, str | None]) -> None:
    directory = "/"
    ahead = path.split("/")[::-1]
    followed = 0
    while ahead:
        name = ahead.pop()
        if name in ("", "."):
            continue
        if name == "..":
            directory = os.path.dirname(directory)
            continue
        found.setdefault(directory, set()).add(name)
        step = os.path.join(directory, name)
        if step not in links:
            links[step] = _target(step)
        target = links[step]
        if target is None:
            directory = step
            continue
        followed += 1
        if followed > _MOST_LINKS:
            return
        if target.startswith("/"):
            directory = "/"
        ahead.extend(target.split("/")[::-1])


def _target(path: str) -> str | None:
    """Where a link leads; None when it is no link, or not there."""
    try:
        return os.readlink(path)
    except (OSError, ValueError):
        return None
