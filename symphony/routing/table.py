"""Which route a server name leads to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

R = TypeVar("R")


class RouteTable(Generic[R]):
    """Server names to routes of any type: exact names first, then ``*.suffix``, then the default.

    ``*.suffix`` stands for exactly one more label. A lookup costs at most three dictionary look-ups however
    many routes there are. A table is filled before it serves, and not changed any more: a new configuration makes a
    new one.
    """

    __slots__ = ("_exact", "_wildcard", "default")

    def __init__(self, entries: Iterable[tuple[str, R]] = ()) -> None:
        """Take (name, route) pairs as :meth:`add` does."""
        self.default: R | None = None
        self._exact: dict[bytes, R] = {}
        self._wildcard: dict[bytes, R] = {}
        for name, route in entries:
            self.add(name, route)

    def add(self, name: str, route: R) -> None:
        """Lead `name` to `route`. Names are normalised: lower-case A-labels, ``*.suffix``, or "" (default).

        Raises ValueError for a name that is there already or is not ASCII.
        """
        if not name:
            if self.default is not None:
                raise ValueError("two default routes")
            self.default = route
            return
        wildcard = name.startswith("*.")
        names, key = (self._wildcard, name[2:]) if wildcard else (self._exact, name)
        encoded = key.encode("ascii")
        if encoded in names:
            raise ValueError(f"two routes for {name!r}")
        names[encoded] = route

    def __len__(self) -> int:
        return len(self._exact) + len(self._wildcard) + (self.default is not None)

    def lookup(self, server_name: bytes | None) -> R | None:
        """Return the route for the name a client sent (None: it sent none), or None when there is none.

        Upper case and one trailing dot do not matter.
        """
        if server_name is None:
            return self.default
        route = self._exact.get(server_name)
        if route is not None:
            return route
        name = server_name.lower()
        if name.endswith(b"."):
            name = name[:-1]
        route = self._exact.get(name)
        if route is not None:
            return route
        dot = name.find(b".")
        if dot > 0:
            route = self._wildcard.get(name[dot + 1 :])
            if route is not None:
                return route
        return self.default
