"""The reference of the configuration is what the types say."""

from __future__ import annotations

import sys

import pytest

from tools.reference import PAGE, main, render

KEYS = ("workers", "listeners", "protection", "penalty_box", "duration_ms", "ip_affinity", "rate")


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == render(), "run python -m tools.reference"


@pytest.mark.parametrize("key", KEYS)
def test_keys_of_every_table_are_there(key: str) -> None:
    assert f"| `{key}` |" in render()


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["reference", "--check"])
    assert main() == 0
