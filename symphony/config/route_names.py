"""What routes are called, which listeners they belong to, and that no listener has two routes of one name.

All this is read from the document as it stands, since what is broken in other ways is told by its name too.
"""

from __future__ import annotations

from collections.abc import Iterable

from symphony.config.check import render_address
from symphony.config.findings import Findings
from symphony.config.problem import Problem
from symphony.config.server_name import ServerNameError, normalise_server_name
from symphony.config.wording import quoted

Where = tuple[str, ...]
"""The ids of the listeners that have a route, in the order of the listeners; none: all of them have it."""

_SHOWN = 8


class ListenerIds:
    """Gives listeners their ids: ``host:port``, and ``#n`` behind it where port 0 repeats one."""

    def __init__(self) -> None:
        self._positions: dict[str, int] = {}
        self._spellings: dict[str, str] = {}

    def add(self, written: str, host: str, port: int) -> str:
        """Return the id of the next listener: `host` is its host in normal form, `written` as the file has it."""
        address = id = render_address(host, port)
        count = 1
        while id in self._positions:
            count += 1
            id = f"{address}#{count}"
        self._positions[id] = len(self._positions)
        self._spellings.setdefault(render_address(written, port), id)
        return id

    def find(self, name: str) -> str | None:
        """The id of the listener that a route calls `name`: by its id, or spelled as in the file."""
        return name if name in self._positions else self._spellings.get(name)

    def in_order(self, ids: Iterable[str]) -> Where:
        """Each of `ids` once, in the order of the listeners."""
        return tuple(sorted(set(ids), key=self._positions.__getitem__))

    def check(self, names: Iterable[str], place: str, problems: list[Problem]) -> None:
        """Find what a route's `listeners` say that is none, or twice."""
        seen: set[str] = set()
        for position, name in enumerate(names):
            id = self.find(name)
            if id is None:
                text = f"there is no listener {quoted(name)}: expected {self._known()}"
                problems.append(Problem(f"{place}[{position}]", text))
            elif id in seen:
                problems.append(
                    Problem(f"{place}[{position}]", f"names {quoted(id)} twice: expected it once")
                )
            else:
                seen.add(id)

    def _known(self) -> str:
        known = [quoted(id) for id in list(self._positions)[:_SHOWN]]
        more = ", ..." if len(self._positions) > _SHOWN else ""
        return ", ".join(known) + more


def read_names(raw_routes: object, findings: Findings) -> dict[int, str]:
    """The name of every route in normal form, by the number of the route; what is none is left out and noted."""
    names: dict[int, str] = {}
    for index, raw in enumerate(raw_routes if isinstance(raw_routes, list) else ()):
        written = raw.get("sni") if isinstance(raw, dict) else None
        if not isinstance(written, str):
            continue
        try:
            names[index] = normalise_server_name(written)
        except ServerNameError as error:
            findings.add([Problem(f"routes[{index}].sni", str(error))])
    return names


def read_listeners(raw_routes: object, ids: ListenerIds) -> dict[int, Where]:
    """The listeners of every route where they can be told, by the number of the route."""
    known: dict[int, Where] = {}
    for index, raw in enumerate(raw_routes if isinstance(raw_routes, list) else ()):
        written = raw.get("listeners", []) if isinstance(raw, dict) else None
        if not isinstance(written, list) or not all(isinstance(name, str) for name in written):
            continue
        found = [id for name in written if (id := ids.find(name)) is not None]
        if found or not written:
            known[index] = ids.in_order(found)
    return known


def find_repeated(names: dict[int, str], where: dict[int, Where], findings: Findings) -> None:
    """Note routes that have one name on one listener; `names` and `where` as read from one file."""
    taken = TakenNames()
    for index, name in names.items():
        if index not in where:
            continue
        clash = taken.take(index, name, where[index])
        if clash is not None:
            # Which of the two is meant cannot be told, so neither is served.
            other, text = clash
            findings.broken.add(other)
            findings.add([Problem(f"routes[{index}].sni", text)])


class TakenNames:
    """The names that routes have so far, and where."""

    def __init__(self) -> None:
        self._taken: dict[str, list[tuple[int, Where]]] = {}

    def take(self, index: int, name: str, where: Where) -> tuple[int, str] | None:
        """Let route number `index` have `name`; or return whose name it is there already, and what is wrong."""
        taken = self._taken.setdefault(name, [])
        for other, there in taken:
            if where and there:
                both = [id for id in where if id in there]
            else:
                both = list(where or there)
                if not both:
                    text = f"{_shown(name)} is already the name of routes[{other}]: expected each name once"
                    return other, text
            if both:
                text = (
                    f"{_shown(name)} is already the name of routes[{other}] on {', '.join(both)}: "
                    "expected each name once on every listener"
                )
                return other, text
        taken.append((index, where))
        return None


def _shown(name: str) -> str:
    return quoted(name) if name else '"" (the default)'
