"""The dashboard without a terminal: what is remembered, drawn and done with keys."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from rich.console import Console

from symphony.api.blocked import BlockedEntry
from symphony.dashboard.around import Around
from symphony.dashboard.changes import changes
from symphony.dashboard.frame import Frame
from symphony.dashboard.history import History
from symphony.dashboard.keys import read_keys
from symphony.dashboard.numbers import milliseconds, short, size, sparkline
from symphony.dashboard.section import Rows, Section, share_out
from symphony.dashboard.view import SORTS, Page, View
from symphony.messages.events import Suspended
from symphony.observe.histogram import Histogram
from symphony.observe.record_totals import Totals
from symphony.observe.telemetry import RouteState, Telemetry, UpstreamState
from tests.unit.test_telemetry import HISTOGRAM, TOTALS, telemetry


def state(at: float, factor: int = 1) -> Telemetry:
    totals = structs.replace(
        TOTALS,
        accepted=10 * factor,
        bytes_up=1000 * factor,
        handshake_times={"": sum([HISTOGRAM] * factor, Histogram())},
        connect_times={"unix:/a": sum([HISTOGRAM] * factor, Histogram())},
        routes={
            f"r{number:02}.example": Totals(number, 10 * factor, 0, number * factor, 0, 0)
            for number in range(30)
        },
    )
    return structs.replace(telemetry(totals), at=at)


AROUND = Around(
    (BlockedEntry("127.0.0.1:443", "192.0.2.7", "rate_limited", 12.4),),
    3,
    (
        Suspended(
            "0-ab-1", "127.0.0.1:443", "held", "a\x1b[2Jb.example", "192.0.2.9", 4, "", "", 30_000, 5_000
        ),
    ),
)


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


def test_health_and_times_are_shown() -> None:
    lines = drawn(Frame(history(), View(), [], around=AROUND), 140, 90)
    [route] = [line for line in lines if line.startswith("default ")]
    assert route.split()[1] == "1/4"
    [upstream] = [line for line in lines if line.startswith("unix:/a ")]
    assert upstream.split()[1] == "up" and upstream.count(" s ") + upstream.count(" ms ") == 2
    assert [line.split()[1] for line in lines if line.startswith("unix:/")] == [
        "up",
        "out",
        "draining",
        "disabled",
    ]
    [blocked] = [line for line in lines if line.startswith("192.0.2.7")]
    assert blocked.split() == ["192.0.2.7", "rate_limited", "127.0.0.1:443", "12", "s"]
    [held] = [line for line in lines if line.startswith("0-ab-1")]
    assert held.split() == ["0-ab-1", "a?[2Jb.example", "192.0.2.9", "5", "s", "25", "s"]
    assert any(line.startswith("127.0.0.1:1 ") for line in lines)
    assert not any(line.startswith("m ") for line in lines), "a listener that is no more"


def test_what_there_is_nothing_of_takes_no_line() -> None:
    calm = structs.replace(state(1.0).totals, errors={})
    found = History()
    found.add(structs.replace(state(1.0), totals=calm, held=0))
    text = "\n".join(drawn(Frame(found, View(), []), 100, 60))
    for heading in ("held  ", "blocked", "ended early", "event"):
        assert f"\n{heading}" not in text


def test_on_paper_there_is_no_more_than_there_is() -> None:
    lines = drawn(Frame(history(), View(), [], around=AROUND, paper=True), 100, 200)
    assert 40 < len(lines) < 90 and lines[-1].strip() and "? help" not in "\n".join(lines)


@pytest.mark.parametrize(
    ("key", "page", "shown"),
    [("b", Page.BLOCKED, "192.0.2.7"), ("w", Page.HELD, "0-ab-1"), ("f", Page.FAILURES, "not_tls")],
)
def test_pages(key: str, page: Page, shown: str) -> None:
    view = View()
    view.press(key)
    assert view.page is page
    lines = drawn(Frame(history(), view, [], around=AROUND), 80, 24)
    assert any(line.startswith(shown) for line in lines)
    view.press("escape")
    assert view.page is Page.OVERVIEW


def test_a_route_and_its_upstreams() -> None:
    view = View()
    view.page, view.route = Page.ROUTE, ""
    lines = drawn(Frame(history(), view, []), 100, 30)
    assert any(line.startswith("route default ") for line in lines)
    assert [line.split()[1] for line in lines if line.startswith("unix:/")] == [
        "up",
        "out",
        "draining",
        "disabled",
    ]
    assert any(line.startswith("handshake, 99 % within ") and " s" in line for line in lines)
    view.route = "gone.example"
    assert "not configured any more" in "\n".join(drawn(Frame(history(), view, []), 100, 30))


def test_what_does_not_fit_is_left_out_from_the_end() -> None:
    section = Section(("name", "state", "first", "second"), [("n", "up", "1" * 10, "2" * 10)])
    for width, last in ((60, "second"), (44, "second"), (32, "first"), (20, "state"), (10, "state")):
        console = Console(file=io.StringIO(), width=width, color_system=None)
        console.print(section.render(5, width))
        text = console.file.getvalue()  # type: ignore[attr-defined]
        heading = text.splitlines()[0].split()
        assert heading[-1] == last or width == 10, (width, heading)
        assert max(map(len, text.splitlines())) <= width


def test_only_rows_on_the_screen_are_made() -> None:
    made: list[int] = []

    def row(at: int) -> tuple[str]:
        made.append(at)
        return (f"row {at}",)

    section = Section(("name",), Rows(100_000, row), selected=50_000)
    console = Console(file=io.StringIO(), width=40, color_system=None)
    console.print(section.render(11, 40))
    assert made == list(range(49_991, 50_001)) and "row 50000" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_chosen_row_can_be_told_without_colours() -> None:
    view = View()
    drawn(Frame(history(), view, []), 100, 60)
    view.press("down")
    lines = drawn(Frame(history(), view, []), 100, 60)
    [chosen] = [line for line in lines if line.startswith("> ")]
    assert view.shown_routes[1] in chosen


def test_leaps_stay_within_the_routes() -> None:
    view = View()
    drawn(Frame(history(), view, []), 100, 60)
    last = len(view.shown_routes) - 1
    places = []
    for key in ("page down", "page down", "end", "page down", "page up", "home", "page up"):
        view.press(key)
        places.append(view.selected)
    assert places == [10, 20, last, last, last - 10, 0, 0]
    empty = View()
    empty.press("end")
    assert empty.selected == 0


def test_changes_become_lines() -> None:
    before = state(1.0)
    acceptor, admin = before.actors
    later = structs.replace(
        before,
        config_version=8,
        actors=(
            structs.replace(acceptor, restarts=3, pid=9, last_exit="killed by SIGKILL"),
            structs.replace(admin, name="other"),
        ),
        route_states=tuple(
            RouteState(
                name, (UpstreamState("unix:/a", "out", "ready"), UpstreamState("unix:/b", "up", "ready"))
            )
            for name in ("", "b.example")
        ),
    )
    assert list(changes(before, before)) == []
    assert list(changes(before, later)) == [
        "acceptor-0 was started again as process 9: killed by SIGKILL",
        "other is new",
        "admin is gone",
        "configuration 8 is in force",
        "upstream unix:/a is down (route default)",
        "upstream unix:/b is up (route default)",
    ]
    drained = structs.replace(later, actors=later.actors[:1])
    assert list(changes(drained, structs.replace(drained, pid=77))) == ["process 77 serves instead of 4"]
    assert list(changes(later, structs.replace(later, actors=()))) == [], "a supervisor that is silent"


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
@given(
    st.lists(
        st.sampled_from(
            [*"qps/ehbwf?jk x", "up", "down", "page down", "end", "enter", "escape", "backspace", "ctrl-c"]
        )
    )
)
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
        (b"\x1b[5~\x1b[6~x", ["page up", "page down", "x"]),
        (b"\x1b[H\x1bOF\x1b[1~\x1b[4~", ["home", "end", "home", "end"]),
        (b"\x1b[15~q", ["q"]),
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
