"""Which route a server name leads to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Lookup(Protocol[R_co]):
    """Which route a server name leads to, on one listener."""

    def lookup(self, server_name: bytes | None) -> R_co | None:
        """Return the route for the name a client sent (None: it sent none), or None when there is none."""


class RouteTable(Generic[R]):
    """Server names to routes of any type: exact names first, then ``*.suffix``, then the default.

    ``*.suffix`` stands for exactly one more label. A lookup costs at most three dictionary look-ups however
    many routes there are. A table is filled before it serves, and not changed any more: a new configuration makes a
    new one.
    """

    __slots__ = ("default", "exact", "wildcard")

    def __init__(self, entries: Iterable[tuple[str, R]] = ()) -> None:
        """Take (name, route) pairs as :meth:`add` does."""
        self.default: R | None = None
        self.exact: dict[bytes, R] = {}
        self.wildcard: dict[bytes, R] = {}
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
        names, key = (self.wildcard, name[2:]) if wildcard else (self.exact, name)
        encoded = key.encode("ascii")
        if encoded in names:
            raise ValueError(f"two routes for {name!r}")
        names[encoded] = route

    def __len__(self) -> int:
        return len(self.exact) + len(self.wildcard) + (self.default is not None)

    def lookup(self, server_name: bytes | None) -> R | None:
        """Return the route for the name a client sent (None: it sent none), or None when there is none.

        Upper case and one trailing dot do not matter.
        """
        if server_name is None:
            return self.default
        route = self.exact.get(server_name)
        if route is not None:
            return route
        name = server_name.lower()
        if name.endswith(b"."):
            name = name[:-1]
        route = self.exact.get(name)
        if route is not None:
            return route
        dot = name.find(b".")
        if dot > 0:
            route = self.wildcard.get(name[dot + 1 :])
            if route is not None:
                return route
        return self.default


class ListenerTable(Generic[R]):
    """The routes of one listener: `shared` with other listeners, and `own`; a name is in one of them at the most.

    What is more exact goes first, whichever of the two has it. Nothing is copied: a lookup asks both, so it costs at
    most six dictionary look-ups, and listeners without routes of their own have the shared table itself.
    """

    __slots__ = ("_own", "_shared")

    def __init__(self, shared: RouteTable[R], own: RouteTable[R]) -> None:
        self._shared = shared
        self._own = own

    def lookup(self, server_name: bytes | None) -> R | None:
        """As :meth:`RouteTable.lookup`."""
        own, shared = self._own, self._shared
        if server_name is not None:
            name = server_name.lower()
            if name.endswith(b"."):
                name = name[:-1]
            route = own.exact.get(name)
            if route is None:
                route = shared.exact.get(name)
            if route is not None:
                return route
            dot = name.find(b".")
            if dot > 0:
                suffix = name[dot + 1 :]
                route = own.wildcard.get(suffix)
                if route is None:
                    route = shared.wildcard.get(suffix)
                if route is not None:
                    return route
        return own.default if own.default is not None else shared.default
