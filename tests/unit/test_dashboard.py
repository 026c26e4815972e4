"""The dashboard without a terminal: what is remembered, drawn and done with keys."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from rich.console import Console

from symphony.dashboard.frame import Frame, share_out
from symphony.dashboard.history import History
from symphony.dashboard.keys import read_keys
from symphony.dashboard.numbers import milliseconds, short, size, sparkline
from symphony.dashboard.view import SORTS, Page, View
from symphony.observe.records import Totals
from symphony.observe.telemetry import Telemetry
from tests.unit.test_telemetry import TOTALS, telemetry


def state(at: float, factor: int = 1) -> Telemetry:
    totals = structs.replace(
        TOTALS,
        accepted=10 * factor,
        bytes_up=1000 * factor,
        routes={
            f"r{number:02}.example": Totals(number, 10 * factor, 0, number * factor, 0, 0)
            for number in range(30)
        },
    )
    return structs.replace(telemetry(totals), at=at)


def history() -> History:
    found = History()
    found.add(state(1.0))
    found.add(state(3.0, 2))
    return found


def drawn(frame: Frame, width: int, height: int, encoding: str = "utf-8") -> list[str]:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(file=stream, width=width, height=height, color_system=None, legacy_windows=False)
    console.print(frame, end="", height=height)
    stream.flush()
    return raw.getvalue().decode(encoding).split("\n")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 50), (200, 12), (40, 8)])
@pytest.mark.parametrize("page", list(Page))
def test_a_frame_fills_the_screen_and_no_more(width: int, height: int, page: Page) -> None:
    view = View()
    view.page, view.route = page, "r05.example"
    lines = drawn(Frame(history(), view, ["an event " * 40] * 100), width, height)
    assert len(lines) == height
    assert max(len(line) for line in lines) <= width


def test_what_a_frame_says() -> None:
    text = "\n".join(drawn(Frame(history(), View(), ["12:00:00 blocked"]), 100, 60))
    for wanted in (
        "symphony 1.2.3",
        "acceptor-0",
        "backing off",
        "127.0.0.1:1",
        "r29.example",
        "not_tls",
        "blocked",
    ):
        assert wanted in text
    assert "PAUSED" not in text


def test_nothing_is_known_yet() -> None:
    assert "waiting" in "\n".join(drawn(Frame(History(), View(), [], "why"), 80, 24))


def test_a_terminal_without_unicode() -> None:
    lines = drawn(Frame(history(), View(), []), 80, 24, "ascii")
    assert all(line.isascii() for line in lines) and len(lines) == 24


def test_filter_sort_and_choice() -> None:
    view = View()
    for key in ("/", "r", "2", "enter"):
        view.press(key)
    drawn(Frame(history(), view, []), 100, 60)
    assert view.shown_routes == [f"r{number}.example" for number in range(29, 19, -1)]
    while view.sort != "name":
        view.press("s")
    drawn(Frame(history(), view, []), 100, 60)
    assert view.shown_routes[0] == "r20.example"
    view.press("down")
    view.press("enter")
    assert (view.page, view.route) == (Page.ROUTE, "r21.example")
    assert "route r21.example" in "\n".join(drawn(Frame(history(), view, []), 100, 20))
    view.press("escape")
    view.press("escape")
    assert (view.page, view.filter) == (Page.OVERVIEW, "")


@settings(deadline=None)
@given(st.lists(st.sampled_from([*"qps/eh?jk x", "up", "down", "enter", "escape", "backspace", "ctrl-c"])))
def test_no_keys_break_it(keys: list[str]) -> None:
    view, remembered = View(), history()
    for key in keys:
        view.press(key)
        assert view.sort in SORTS
    assert len(drawn(Frame(remembered, view, []), 80, 24)) == 24


def test_rates() -> None:
    found = history()
    assert found.rate(lambda one: one.totals.accepted) == 5.0
    assert found.series(lambda one: one.totals.accepted, 10) == [5.0]
    [flow] = [one for one in found.flows(lambda one: one.totals.routes) if one.key == "r04.example"]
    assert (flow.active, flow.connections, flow.bytes_up) == (4, 5.0, 2.0)
    assert found.cpu("acceptor-0") == 0.0 and found.cpu("nobody") is None


def test_an_instance_that_began_anew_begins_a_new_history() -> None:
    found = history()
    found.add(state(4.0, 0))
    assert len(found) == 1 and found.rate(lambda one: one.totals.accepted) == 0.0


@given(st.lists(st.integers(1, 40), max_size=8), st.integers(0, 100))
def test_sharing_out(wanted: list[int], lines: int) -> None:
    given_lines = share_out(wanted, lines)
    assert sum(given_lines) <= lines
    assert all(0 <= given_one <= want for given_one, want in zip(given_lines, wanted, strict=True))
    if sum(wanted) <= lines:
        assert given_lines == [want if want > 1 else 0 for want in wanted]


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1b[Bx", ["up", "down", "x"]),
        (b"\x1bOA", ["up"]),
        (b"\x1b", ["escape"]),
        (b"\r\x7f\x03 ", ["enter", "backspace", "ctrl-c", " "]),
        (b"\x1b[1;5Cq", ["q"]),
        ("ü".encode(), ["ü"]),
        (b"\x01\xff", []),
    ],
)
def test_keys(data: bytes, keys: list[str]) -> None:
    assert read_keys(data) == keys


@given(st.binary(max_size=30))
def test_any_bytes_from_a_terminal(data: bytes) -> None:
    for key in read_keys(data):
        assert len(key) > 1 or key.isprintable()


def test_numbers() -> None:
    assert [short(value) for value in (0, 7, 7.25, 999, 1000, 12345, 4.5e6, 1e12)] == [
        "0",
        "7",
        "7.2",
        "999",
        "1.0k",
        "12.3k",
        "4.5M",
        "1.0T",
    ]
    assert (size(0), size(12_500), size(3.1e9)) == ("0 B", "12.5 kB", "3.1 GB")
    assert (milliseconds(None), milliseconds(0.0015), milliseconds(0.5), milliseconds(20)) == (
        "-",
        "1.5 ms",
        "500 ms",
        "20 s",
    )
    assert sparkline([0, 1, 2], 5) == "  ▁▅█" and sparkline([], 3, plain=True) == "   "
    assert sparkline([0, 0], 2) == "▁▁"
