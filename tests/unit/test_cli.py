"""The commands' surface: what needs no running instance."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from symphony.cli.main import COMMANDS, main
from symphony.cli.places import default_runtime_dir
from symphony.cli.status_page import render_duration
from symphony.tls.certificate_maker import make_certificate
from symphony.version import __version__


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, with no configuration named by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYMPHONY_CONFIG", raising=False)
    monkeypatch.setattr("symphony.config.source.DEFAULT_FILES", ("./symphony.toml",))
    return tmp_path


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "-h"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: main {name}")


def test_version() -> None:
    result = CliRunner().invoke(main, ["version"])
    assert (result.exit_code, result.output) == (0, f"symphony {__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [["serve"], ["run", "--log-format", "xml"], ["run", "--workers", "0"], ["stop", "--timeout", "-1"]],
)
def test_a_wrong_command_line_is_refused_with_code_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "Error: " in result.output


@pytest.mark.parametrize("name", ["run", "check"])
def test_without_any_configuration_the_places_are_named(name: str, nowhere: Path) -> None:
    result = CliRunner().invoke(main, [name])
    assert result.exit_code == 2
    assert "$SYMPHONY_CONFIG" in result.output
    assert "./symphony.toml" in result.output
    assert "Traceback" not in result.output


def test_the_default_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert default_runtime_dir() == "/run/symphony"
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert default_runtime_dir() == "/run/user/1000/symphony"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_runtime_dir() == f"{tempfile.gettempdir()}/symphony-1000"


@pytest.mark.parametrize("name", ["status", "stop", "reload"])
def test_code_3_and_one_line_when_nothing_runs(name: str, nowhere: Path) -> None:
    for directory in (nowhere / "absent", nowhere / "empty"):
        result = CliRunner().invoke(main, [name, "--runtime-dir", str(directory)])
        assert result.exit_code == 3
        assert result.output == f"nothing runs in {directory}\n"
        (nowhere / "empty").mkdir(mode=0o700, exist_ok=True)


def test_a_runtime_directory_that_others_may_enter_is_not_trusted(nowhere: Path) -> None:
    open_to_all = nowhere / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    result = CliRunner().invoke(main, ["status", "--runtime-dir", str(open_to_all)])
    assert result.exit_code == 1
    assert "0755" in result.output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.9, "4 s"), (190, "3 min 10 s"), (7500, "2 h 5 min"), (86400 * 12 + 3 * 3600, "12 d 3 h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert render_duration(seconds) == text


def test_a_light_command_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from symphony.cli.main import main\n"
        "main(['version'], standalone_mode=False)\n"
        "heavy = {'OpenSSL', 'cryptography', 'rich', 'uvloop', 'structlog', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


TO = ["--to", "tcp://127.0.0.1:80"]
PAIR = ["--cert", "a.pem", "--key", "a.key"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--reject", *TO],
        ["--reject", "--release"],
        ["--reject", "--terminate"],
        ["--reject", "--no-http2"],
        ["--reject", *PAIR],
        ["--release", *TO],
        [*TO, "--cert", "a.pem"],
        [*TO, "--key", "a.key"],
        [*TO, "--passthrough", *PAIR],
        [*TO, "--passthrough", "--http2"],
    ],
)
def test_a_resolution_that_contradicts_itself(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, ["resolve", "0-000000000000-1", *arguments])
    assert result.exit_code == 2
    assert "Error: " in result.output


def test_what_a_resolution_names_is_looked_at_first(nowhere: Path) -> None:
    made = make_certificate(["a.example"])
    (nowhere / "a.pem").write_bytes(made.chain_pem)
    (nowhere / "a.key").write_bytes(made.key_pem[:100])
    (nowhere / "large.pem").write_bytes(made.chain_pem * 2000)
    for arguments, says in (
        (["--to", "127.0.0.1:80"], '--to: "127.0.0.1:80" is no upstream'),
        ([*TO, "--cert", "gone.pem", "--key", "a.key"], '--cert: "gone.pem" does not exist'),
        ([*TO, "--cert", "a.pem", "--key", "gone.key"], '--key: "gone.key" does not exist'),
        ([*TO, *PAIR], "--key a.key has"),
        ([*TO, "--cert", "large.pem", "--key", "a.key"], '--cert: "large.pem" is too large'),
    ):
        result = CliRunner().invoke(main, ["resolve", "0-000000000000-1", *arguments])
        assert result.exit_code == 2, result.output
        assert result.output.startswith(says), result.output
        assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [["suspended"], ["suspended", "--follow"], ["events"], ["resolve", "0-000000000000-1", "--reject"]],
)
def test_held_connections_where_nothing_runs(nowhere: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(main, [*arguments, "--runtime-dir", "r"])
    assert (result.exit_code, result.output) == (3, f"nothing runs in {nowhere / 'r'}\n")
