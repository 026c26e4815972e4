"""What was found wrong with a file: which routes that breaks, and whether anything else is left standing."""

from __future__ import annotations

import re
from collections.abc import Iterable

from symphony.config.problem import Problem, SharedWarnings

_ROUTE_PLACE = re.compile(r"routes\[(\d+)\]")
_ELEMENT_PLACE = re.compile(r"(listeners|routes)\[(\d+)\]")


class Findings:
    """The findings of one load. `broken` are the numbers of the routes that errors leave out."""

    def __init__(self) -> None:
        self.warnings = SharedWarnings()
        self.broken: set[int] = set()
        self._errors: list[Problem] = []

    def add(self, errors: Iterable[Problem]) -> None:
        """Note `errors`; those of a route break it."""
        for error in errors:
            match = _ROUTE_PLACE.match(error.place)
            if match:
                self.broken.add(int(match[1]))
            self._errors.append(error)

    def only_in_routes(self) -> bool:
        """Whether all errors are inside single routes."""
        return all(_ROUTE_PLACE.match(error.place) for error in self._errors)

    def listeners_in_order(self) -> bool:
        """Whether no error is about listeners."""
        return not any(error.place.startswith("listeners") for error in self._errors)

    def in_document_order(self) -> tuple[Problem, ...]:
        """Errors and warnings: of the whole file, of its listeners, of its routes."""
        return tuple(sorted(self._errors + self.warnings.problems(), key=_document_order))


def _document_order(problem: Problem) -> tuple[int, int]:
    match = _ELEMENT_PLACE.match(problem.place)
    if match is None:
        return 0, 0
    return (1 if match[1] == "listeners" else 2), int(match[2])
