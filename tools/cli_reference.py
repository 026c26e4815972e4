"""Writes docs/cli.md from the commands themselves: what each does, its arguments and options, and the exit codes.

python -m tools.cli_reference            write it
python -m tools.cli_reference --check    exit with 1 when it is not what the commands say
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from symphony.cli.exits import Exit
from symphony.cli.main import COMMANDS, main

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"

HEAD = """\
# Commands

Written by `python -m tools.cli_reference` from the commands themselves; do not edit it.

All commands but `run`, `check`, `doctor` and `version` speak to a running instance, which they find by its runtime
directory: `--runtime-dir`, else the configuration file's `runtime_dir`, else `/run/symphony` for root,
`$XDG_RUNTIME_DIR/symphony` or a private folder under the temp dir for others.

With `--json` a command prints JSON on standard output and nothing else there; errors go to standard error. Fields are
added over time, and none is taken away without a word in the changelog. Colours are left out where the output is no
terminal, and wherever `NO_COLOR` is set.
"""

COMPLETION = """\
## Completion

The shell completes commands, options, choices and file names once it has been told how. For bash, in `~/.bashrc`:

```sh
eval "$(_SYMPHONY_COMPLETE=bash_source symphony)"
```

For zsh, in `~/.zshrc`, `_SYMPHONY_COMPLETE=zsh_source`; for fish, in `~/.config/fish/completions/symphony.fish`,
`_SYMPHONY_COMPLETE=fish_source symphony | source`. It needs bash 4.4 or newer. To spare every new shell the start of a
program, save what it prints in a file and read that.
"""


def render() -> str:
    """The page."""
    parts = [HEAD, *_exit_codes(), COMPLETION]
    # As the program makes it: commands remember the first one that asked them for their help.
    above = main.make_context("symphony", [], resilient_parsing=True)
    for name in COMMANDS:
        command = main.get_command(above, name)
        assert command is not None
        parts.append("\n".join(_command(name, command, above)))
    return "\n".join(parts)


def _exit_codes() -> Iterator[str]:
    yield "## Exit codes\n"
    yield "| code | meaning |\n|---|---|"
    yield "\n".join(f"| {code.value} | {code.meaning} |" for code in Exit) + "\n"


def _command(name: str, command: click.Command, above: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=above)
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    yield f"## symphony {name}\n"
    yield f"    {command.get_usage(context).removeprefix('Usage: ')}\n"
    yield inspect.cleandoc(command.help or "") + "\n"
    rows = [_option(context, option) for option in shown if isinstance(option, click.Option)]
    if rows:
        yield "| option | meaning |\n|---|---|"
        yield "\n".join(rows) + "\n"


def _option(context: click.Context, option: click.Option) -> str:
    record = option.get_help_record(context)
    assert record is not None, f"{option.name} is hidden"
    spelling, meaning = record
    return f"| `{_cell(spelling)}` | {_cell(meaning)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def run() -> int:
    """Write or check."""
    text = render()
    if "--check" in sys.argv[1:]:
        return int(PAGE.read_text() != text)
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(run())
