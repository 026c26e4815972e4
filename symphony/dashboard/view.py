"""What the person at the dashboard has chosen, and what the keys do to it: no terminal, no time."""

from __future__ import annotations

from enum import Enum

SORTS = ("name", "active", "rate", "bytes", "failures")


PAGE_LINES = 10
"""How far page up and page down go."""


class Page(Enum):
    """What is shown."""

    OVERVIEW = "overview"
    ROUTE = "route"
    EVENTS = "events"
    BLOCKED = "blocked"
    HELD = "held"
    FAILURES = "failures"
    HELP = "help"


class View:
    """The state of the screen. :meth:`press` takes keys by name: single characters, ``up``, ``down``, ``escape``..."""

    def __init__(self) -> None:
        self.page = Page.OVERVIEW
        self.sort = "active"
        self.filter = ""
        self.typing = False
        self.paused = False
        self.selected = 0
        self.route = ""
        self.ended = False
        self.shown_routes: list[str] = []
        """The routes as they stand on the screen, for the selection; the frame fills it in."""

    def press(self, key: str) -> None:
        """Do what `key` is for; a key that is for nothing does nothing."""
        if self.typing:
            self._type(key)
            return
        match key:
            case "q" | "ctrl-c":
                self.ended = True
            case "p" | " ":
                self.paused = not self.paused
            case "s":
                self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
            case "/":
                self.typing, self.filter = True, ""
            case "e":
                self._toggle(Page.EVENTS)
            case "b":
                self._toggle(Page.BLOCKED)
            case "w":
                self._toggle(Page.HELD)
            case "f":
                self._toggle(Page.FAILURES)
            case "?" | "h":
                self._toggle(Page.HELP)
            case "down" | "j":
                self.selected = min(self.selected + 1, max(0, len(self.shown_routes) - 1))
            case "up" | "k":
                self.selected = max(0, self.selected - 1)
            case "page down" | "page up" | "home" | "end":
                self._leap(key)
            case "enter":
                self._drill()
            case "escape" | "backspace" | "left":
                self._leave()

    def _type(self, key: str) -> None:
        if key == "enter":
            self.typing = False
        elif key in ("escape", "ctrl-c"):
            self.typing, self.filter = False, ""
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif len(key) == 1 and key.isprintable():
            self.filter += key
        self.selected = 0

    def _leap(self, key: str) -> None:
        last = max(0, len(self.shown_routes) - 1)
        to = {
            "page down": self.selected + PAGE_LINES,
            "page up": self.selected - PAGE_LINES,
            "home": 0,
            "end": last,
        }[key]
        self.selected = min(max(0, to), last)

    def _toggle(self, page: Page) -> None:
        self.page = Page.OVERVIEW if self.page is page else page

    def _drill(self) -> None:
        if self.page is Page.OVERVIEW and self.selected < len(self.shown_routes):
            self.route = self.shown_routes[self.selected]
            self.page = Page.ROUTE

    def _leave(self) -> None:
        if self.page is not Page.OVERVIEW:
            self.page = Page.OVERVIEW
        else:
            self.filter = ""
