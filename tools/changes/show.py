"""Reloads and upgrades, one after the other, while clients make connections and keep connections all the while.

First reloads of every kind: routes, certificates and protection each time, and now and then other listeners or another
number of workers, which takes new acceptors. Then reloads that the same acceptors live through. Then upgrades. Between
these, the load rests for a moment, and what every process holds is compared.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

from tools.changes.load import Load
from tools.changes.site import SHAPES, Held, Site, running_site
from tools.promises import NotKept

WARM_UP = 100
GROWTH_KIB = 2048
PROGRAMS = ("wrk", "nginx")
KEPT, MADE = 12, 3
"""Connections that are kept, and connections at a time that are made for one request each."""


def missing_programs() -> list[str]:
    """Those of PROGRAMS that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def show_changes(reloads: int, upgrades: int) -> Iterator[str]:
    """Nobody is refused or reset, and nothing grows."""
    warm_up = min(WARM_UP, max(len(SHAPES), reloads // 2))
    round_s = 3 if reloads >= WARM_UP else 1
    with running_site() as site:
        loads = {
            "kept connections": Load(site.url, round_s, KEPT),
            "new connections": Load(site.url, round_s, MADE, "-H", "Connection: close"),
        }
        changes = _Changes(site, list(loads.values()))
        missed: list[str] = []
        try:
            yield from changes.reload_every_kind(reloads, warm_up, missed)
            yield from changes.reload_the_same_acceptors(reloads // 2, warm_up, missed)
            yield from changes.upgrade(upgrades, missed)
        finally:
            changes.pause()
        for name, load in loads.items():
            counts = ", ".join(f"{what} {count}" for what, count in load.sum.counts.items())
            yield f"{name}, {load.sum.rounds} rounds of wrk: {counts}"
            missed += load.sum.failed
            if load.sum.errors:
                missed.append(f"{name}: {load.sum.errors} errors")
            if not load.sum.counts["requests"]:
                missed.append(f"{name}: no requests")
        errors = site.symphony.status().connections.errors
        yield f"connections ended early, by `symphony status`: {errors or 'none'}"
        if "Traceback" in site.symphony.log:
            missed.append("a traceback in the log")
        if missed:
            raise NotKept("\n".join(missed))


class _Changes:
    def __init__(self, site: Site, loads: list[Load]) -> None:
        self._site = site
        self._loads = loads
        self._number = 0

    def pause(self) -> None:
        for load in self._loads:
            load.pause()

    def _look(self) -> dict[str, Held]:
        self.pause()
        self._site.settle()
        found = self._site.family()
        self._resume()
        return found

    def _resume(self) -> None:
        for load in self._loads:
            load.resume()

    def _reload(self, *, reshape: bool = False) -> None:
        self._number += 1
        self._site.reload(self._number, reshape=reshape)

    def reload_every_kind(self, reloads: int, warm_up: int, missed: list[str]) -> Iterator[str]:
        """Of those processes that live through all of it, none grows."""
        self._resume()
        # So both times it has the first of its shapes when it is looked at.
        every = warm_up // len(SHAPES)
        before: dict[str, Held] = {}
        for number in range(1, reloads + 1):
            self._reload(reshape=number % every == 0)
            if number == warm_up:
                before = self._look()
        after = self._look()
        yield f"{reloads} reloads, {reloads // every} of them with new acceptors; after {warm_up} -> at the end"
        lasting = {name: held for name, held in before.items() if not name.startswith("acceptor")}
        yield from _compare(lasting, after, missed)

    def reload_the_same_acceptors(self, reloads: int, warm_up: int, missed: list[str]) -> Iterator[str]:
        """No acceptor grows."""
        for _ in range(min(warm_up, reloads)):
            self._reload()
        before = self._look()
        for _ in range(reloads):
            self._reload()
        yield f"{reloads} reloads that the same acceptors live through"
        yield from _compare(before, self._look(), missed)

    def upgrade(self, upgrades: int, missed: list[str]) -> Iterator[str]:
        """Nothing is left of any of them."""
        site = self._site
        before, processes, entries = self._look(), site.processes(), site.entries()
        for _ in range(upgrades):
            self._reload()
            site.upgrade()
        after = self._look()
        left = site.processes(), site.entries()
        yield (
            f"{upgrades} upgrades; processes {processes} -> {left[0]}, files in the runtime directory "
            f"{entries} -> {left[1]}"
        )
        if left != (processes, entries):
            missed.append("processes or files are left")
        yield from _compare(before, after, missed)


def _compare(before: dict[str, Held], after: dict[str, Held], missed: list[str]) -> Iterator[str]:
    judged: tuple[tuple[str, Callable[[Held], int], int], ...] = (
        ("resident KiB", lambda held: held.resident, GROWTH_KIB),
        ("proportional KiB", lambda held: held.proportional, GROWTH_KIB),
        ("descriptors", lambda held: held.descriptors, 0),
    )
    for name, was in before.items():
        now = after[name]
        yield f"  {name}: " + ", ".join(f"{what} {get(was)} -> {get(now)}" for what, get, _ in judged)
        missed += [
            f"{name}: {what} {get(was)} -> {get(now)}"
            for what, get, most in judged
            if get(now) - get(was) > most
        ]
