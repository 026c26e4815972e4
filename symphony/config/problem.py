"""What is wrong with a configuration: one value per finding, with its place."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Severity(StrEnum):
    """Whether a finding refuses the configuration or is only told."""

    ERROR = "error"
    WARNING = "warning"


class Problem(Struct, frozen=True):
    """One finding. `place` is such as ``routes[2].cert.private_key_file``; empty for the whole file."""

    place: str
    text: str
    severity: Severity = Severity.ERROR

    def line(self, file: str) -> str:
        """Render as ``FILE: place: text``, the one form in which every face shows findings."""
        mark = "warning: " if self.severity is Severity.WARNING else ""
        return ": ".join(part for part in (file, self.place, mark + self.text) if part)


class SharedWarnings:
    """Warnings that hold in many places for one reason: each is told once, with the number of further places."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}

    def add(self, place: str, text: str) -> None:
        """Note that the warning `text` holds at `place`."""
        self._places.setdefault(text, []).append(place)

    def problems(self) -> list[Problem]:
        """Every warning, at the first place that it was noted for."""
        result: list[Problem] = []
        for text, places in self._places.items():
            more = len(places) - 1
            note = f" (so in {more} more {'place' if more == 1 else 'places'})" if more else ""
            result.append(Problem(places[0], text + note, Severity.WARNING))
        return result


class ConfigError(Exception):
    """A configuration that cannot be used; carries every finding, warnings included."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        super().__init__("\n".join(problem.line(file) for problem in problems))
        self.file = file
        self.problems = problems
