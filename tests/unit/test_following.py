"""Events as they are printed, for people and for programs."""

from __future__ import annotations

import json

import pytest

from symphony.cli.following import render_json, render_line
from symphony.cli.wording import printable
from symphony.messages.events import Blocked, Event, Released, Suspended

HELD = Suspended(
    "0-1-2", "0.0.0.0:443", "*.a.test", "b.a.test", "2001:db8::1", 5, "3" * 32, "t13d", 30_000, 500
)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (HELD, "suspended 0-1-2 b.a.test from [2001:db8::1]:5 on 0.0.0.0:443, 29.5 s left"),
        (Released("0-1-2", "gone"), "released 0-1-2 gone"),
        (
            Blocked("0.0.0.0:443", "192.0.2.1", "ja3_blocked", "a.test", "3" * 32, "", 0),
            "blocked 192.0.2.1 ja3_blocked a.test on 0.0.0.0:443",
        ),
        (
            Blocked("0.0.0.0:443", "192.0.2.1", "cidr_blocked", "", "", "", 12),
            "blocked 192.0.2.1 cidr_blocked on 0.0.0.0:443, and 12 more not shown",
        ),
    ],
)
def test_lines_for_people(event: Event, line: str) -> None:
    assert render_line(event) == line


def test_lines_for_programs_have_every_field() -> None:
    found = json.loads(render_json(HELD))
    assert found.pop("event") == "suspended"
    assert Suspended(**found) == HELD
    assert json.loads(render_json(Released("a", "left"))) == {"event": "released", "id": "a", "how": "left"}
    assert "\n" not in render_json(Blocked("l", "i", "r", "a\nb", "", "", 0))


def test_nothing_that_a_terminal_would_act_upon() -> None:
    assert printable("a.test") == "a.test"
    assert printable("\x1b]0;x\x07\r\n\x9b\t") == "\\x1b]0;x\\x07\\r\\n\\x9b\\t"
    assert printable("\u202e") == "\\u202e"
