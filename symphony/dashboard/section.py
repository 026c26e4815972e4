"""A part of the screen: a table that is cut to the lines and columns there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from rich.console import Console, JustifyMethod
from rich.style import Style
from rich.table import Table
from rich.text import Text

Cell = str | Text
Row = Sequence[Cell]

_HEADING = "bold cyan"
_LEAST_NAME = 14
"""Columns that leave less than this to the first one are left out, the last ones first."""


class Rows(Sequence[Row]):
    """Rows that are made when they are looked at: of 100,000 routes a screen shows twenty."""

    def __init__(self, count: int, row: Callable[[int], Row]) -> None:
        self._count = count
        self._row = row

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> Row: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Row]: ...

    def __getitem__(self, at: int | slice) -> Row | Sequence[Row]:
        if isinstance(at, slice):
            return [self._row(each) for each in range(*at.indices(self._count))]
        return self._row(range(self._count)[at])


class Section:
    """A heading with the columns' names, and rows under it; all columns but the first `texts` stand to the right.

    Where a screen is too narrow, the last columns are left out. `selected` is the number of a row, -1 for none; without
    colours it is `marked` by a character.
    """

    def __init__(
        self,
        columns: Sequence[str],
        rows: Sequence[Row],
        selected: int = -1,
        *,
        texts: int = 1,
        marked: bool = False,
    ) -> None:
        self.columns = columns
        self.rows = rows
        self.selected = selected
        self._texts = texts
        self._marked = marked

    @property
    def height(self) -> int:
        """How many lines it would like."""
        return 1 + max(1, len(self.rows))

    def render(self, lines: int, width: int) -> Table:
        """The section in at most `lines` lines of `width` characters."""
        room = max(0, lines - 1)
        first = min(max(0, self.selected - room + 1), max(0, len(self.rows) - room))
        shown = self.rows[first : first + room]
        left_out = len(self.rows) - len(shown)
        columns = self._fitting(shown, width)
        heading = f"{self.columns[0]} (+{left_out})" if left_out else self.columns[0]
        table = Table(box=None, pad_edge=False, expand=True, header_style=_HEADING, padding=(0, 1, 0, 0))
        table.add_column(heading, no_wrap=True, overflow="ellipsis", ratio=1, min_width=min(12, width))
        for at in range(1, columns):
            side: JustifyMethod = "left" if at < self._texts else "right"
            table.add_column(self.columns[at], justify=side, no_wrap=True, overflow="ellipsis")
        for at, row in enumerate(shown, start=first):
            chosen = at == self.selected
            cells = [
                Text("> ").append_text(_text(row[0])) if chosen and self._marked else row[0],
                *row[1:columns],
            ]
            table.add_row(*cells, style=Style(reverse=True) if chosen else None)
        if not shown and room:
            table.add_row(Text("none", style="dim"), *("" for _ in self.columns[1:columns]))
        return table

    def _fitting(self, shown: Sequence[Row], width: int) -> int:
        """How many columns there is room for."""
        count = len(self.columns)
        widths = [
            1 + max([len(name), *(len(_text(row[at])) for row in shown)])
            for at, name in enumerate(self.columns)
        ]
        while count > 2 and sum(widths[1:count]) + _LEAST_NAME > width:
            count -= 1
        return count


def _text(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)


def share_out(wanted: Sequence[int], lines: int) -> list[int]:
    """Give each section as many of `lines` as it wants; when they do not suffice, two each and the rest in turn."""
    given = [0] * len(wanted)
    for least in (2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 1 << 20):
        for at, want in enumerate(wanted):
            more = min(want, least) - given[at]
            if more > 0 and lines > 0:
                granted = min(more, lines)
                given[at] += granted
                lines -= granted
    # A heading alone says nothing.
    return [0 if count == 1 else count for count in given]


def is_colourless(console: Console) -> bool:
    """Whether a chosen row cannot be seen by its style."""
    return console.color_system is None or console.no_color
