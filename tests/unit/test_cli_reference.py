"""The commands are alike, and their reference is what they say; a shell completes them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from symphony.cli.exits import Exit
from symphony.cli.main import COMMANDS, main
from tools.cli_reference import PAGE, render, run

ROOT = Path(__file__).resolve().parents[2]
FOREVER = ("run",)
"""Commands that are no questions."""
ALONE = ("run", "check", "doctor", "version")
"""Commands that speak to no instance. `run` makes one."""


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


def options(name: str) -> set[str]:
    return {
        spelling for option in command(name).params for spelling in option.opts if spelling.startswith("-")
    }


def test_the_page_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PAGE.read_text() == render(), "run python -m tools.cli_reference"
    monkeypatch.setattr(sys, "argv", ["cli_reference", "--check"])
    assert run() == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_alike(name: str) -> None:
    assert ("--json" in options(name)) == (name not in FOREVER)
    assert "--config" in options(name) or name == "version"
    assert "--runtime-dir" in options(name) or name in ALONE
    text = command(name).help or ""
    assert text.partition("\n")[0].endswith("."), (
        "the first line is a sentence: it is what --help of all shows"
    )
    for option in command(name).params:
        if isinstance(option, click.Option) and option.type.name != "choice":
            assert option.help, option.name


def test_every_command_and_exit_code_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for name in COMMANDS:
        assert f"| `symphony {name}" in text, name
    for code in Exit:
        assert f"| {code.value} | {code.meaning} |" in text
        assert f"| {code.value} | {code.meaning} |" in PAGE.read_text()


def in_bash(script: str, *words: str) -> str:
    """What bash prints; `symphony` is the one of this environment."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [bash, "--norc", "-c", script, "bash", *words],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


COMPLETE = """
eval "$(_SYMPHONY_COMPLETE=bash_source symphony)"
complete -p symphony >&2 || exit 1
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_symphony_completion symphony
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["re"], {"reload", "resolve"}),
        (["st"], {"status", "stop"}),
        (["top", "--o"], {"--once"}),
        (["reload", "--j"], {"--json"}),
        (["upstream", "default", "unix:/x", "d"], {"drain", "down"}),
        (["run", "--log-format", ""], {"console", "json"}),
        (["nothing-begins-so"], set()),
    ],
)
def test_bash_completes(words: list[str], offered: set[str]) -> None:
    assert set(in_bash(COMPLETE, "symphony", *words).split()) == offered


def test_bash_is_told_where_a_file_is_wanted() -> None:
    # What it completes then, it finds itself.
    asked = COMPLETE.replace(
        "_symphony_completion symphony\n", 'compopt() { echo "asked: $@"; }\n_symphony_completion symphony\n'
    )
    for words in (
        ["check", "-c", ""],
        ["run", "--log-file", ""],
        ["resolve", "x", "--cert", ""],
        ["top", "--runtime-dir", ""],
    ):
        assert in_bash(asked, "symphony", *words).split() == ["asked:", "-o", "default"]
