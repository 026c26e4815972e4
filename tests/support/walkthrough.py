"""Does what a page tells its reader to do, block by block, and compares what is printed with what the page shows.

Every fenced block of a page belongs to one of these, by its language and by comments above it, which nobody sees where
the page is shown:

===============  ===================================================================================================
``console``      lines after ``$`` (and ``>``) are commands for bash, those below are what they print; ``...`` is
                 anything: a part of a line, or, alone on a line, any lines. Runs of spaces are one, as numbers have
                 other widths
``sh``           commands, whose output is not shown and only has to come with exit code 0
``python``       a program, run likewise
``text``         with ``prints``, see below
others           with ``file`` or ``append``
===============  ===================================================================================================

=====================================  =============================================================================
``<!-- test: ports 8443 8080 -->``     these numbers are ports on this page; each run takes free ones for them
``<!-- test: paths /run/x -->``         this path, or several, is one in a directory of the test
``<!-- test: fresh -->``               end all that runs, and go on in an empty directory
``<!-- test: given COMMAND -->``       what the reader is supposed to have: done before the next block
``<!-- test: given on PORT CMD -->``   likewise, and goes on running, once something listens there
``<!-- test: given beside COMMAND -->``  likewise, and goes on while the page does
``<!-- test: given if PROGRAM CMD -->``  likewise, where that program is installed; `missing` names it otherwise
``<!-- test: where TEXT is CMD -->``   in the next block, TEXT stands for what this command prints
``<!-- test: file NAME -->``           the next block is the content of that file
``<!-- test: append NAME -->``         the next block is put at its end
``<!-- test: runs on NAME -->``        the next block's command stays in the foreground of a shell of its own; it has
                                       to print what is shown, and then the page goes on. A NAME where it is needed
``<!-- test: prints NAME -->``         the next block is what that one, or the last one of these, prints next
``<!-- test: interrupt NAME -->``      Ctrl-C for that one, or the last one of these; it has to end
``<!-- test: again -->``               the next block's command is repeated until it prints what is shown, for a while
``<!-- test: exit CODE -->``           the next block's last command ends with this code instead of 0
``<!-- test: not run, REASON -->``     the next block is passed over; `left_out` has it
=====================================  =============================================================================

A comment that begins with ``test:`` and is none of these, a block that is none of the above, and a comment that no
block follows are errors of the page. ``symphony`` has another default runtime directory than outside, and the page's
``/run/symphony`` is that one.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from tests.support.foreground import LIMIT_S, Foreground
from tests.support.page_steps import PageError, Step, as_shown, commands_of, read_steps
from tests.support.ports import lasting_port

DEFAULT_RUNTIME_DIR = "/run/symphony"

_LAUNCHER = """#!{python}
import sys
from symphony.cli import places
places.default_runtime_dir = lambda: {runtime_dir!r}
from symphony.cli.main import main
sys.exit(main())
"""


class Walkthrough:
    """One page, followed from the top to the bottom; a context manager, which ends everything that was started."""

    def __init__(self, page: Path) -> None:
        self._name = page.name
        self._steps = read_steps(page.read_text(), page.name)
        self._home = Path(tempfile.mkdtemp(prefix="sy", dir="/tmp"))
        self._places = {DEFAULT_RUNTIME_DIR: str(self._home / "run")}
        self._running: list[Foreground] = []
        self._fresh = 0
        self.ran = 0
        self.left_out: list[tuple[int, str]] = []
        """The blocks that were passed over: line and reason."""
        self.missing: set[str] = set()
        bin_dir = self._home / "bin"
        bin_dir.mkdir()
        launcher = bin_dir / "symphony"
        launcher.write_text(
            _LAUNCHER.format(python=sys.executable, runtime_dir=self._places[DEFAULT_RUNTIME_DIR])
        )
        launcher.chmod(0o755)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SYMPHONY"))}
        path = f"{bin_dir}:{Path(sys.executable).parent}:{kept.get('PATH', '')}:/usr/sbin"
        self._environment = {**kept, "PATH": path, "TERM": "dumb", "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}
        self._start_afresh()

    def __enter__(self) -> Walkthrough:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_all()
        shutil.rmtree(self._home, ignore_errors=True)

    def follow(self) -> None:
        """Do everything. Raises :class:`PageError` at the first block that is not as the page says."""
        for step in self._steps:
            try:
                if step.language:
                    self._follow_block(step)
                else:
                    self._do(step)
            except AssertionError as error:
                running = "".join(f"\n--- {one.command}:\n{one.printed[-3000:]}" for one in self._running)
                raise PageError(f"{self._name}:{step.line}: {error}{running}") from error

    def _do(self, step: Step) -> None:
        text = self._placed(step.text)
        ((word, _),) = step.said
        if word == "ports":
            self._places.update((number, str(lasting_port())) for number in step.text.split())
            assert len(set(self._places.values())) == len(self._places), "the same port twice"
        elif word == "paths":
            for path in step.text.split():
                place = self._home / "paths" / path.strip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                self._places[path] = str(place)
        elif word == "fresh":
            self._start_afresh()
        elif word == "interrupt":
            process = self._named(text)
            self._running.remove(process)
            process.interrupt()
        elif found := re.match(r"on (\d+) (.*)", text, re.DOTALL):
            self._wait_for_port(self._start(found[2]), int(found[1]))
        elif found := re.match(r"beside (.*)", text, re.DOTALL):
            self._start(found[1])
        elif found := re.match(r"if (\S+) (.*)", text, re.DOTALL):
            if shutil.which(found[1], path=self._environment["PATH"]) is None:
                self.missing.add(found[1])
            else:
                self._run(found[2])
        else:
            self._run(text)

    def _follow_block(self, step: Step) -> None:
        if (reason := step.says("not run,")) is not None:
            assert reason, "without a reason"
            self.left_out.append((step.line, reason))
            return
        text = self._placed(step.text)
        for where in (rest for word, rest in step.said if word == "where"):
            placeholder, _, command = where.partition(" is ")
            assert placeholder in text, f"{placeholder} is not there"
            text = text.replace(placeholder, self._run(self._placed(command)).strip())
        self.ran += 1
        if (name := step.says("file")) is not None:
            self._path(name).write_text(text)
        elif (name := step.says("append")) is not None:
            with self._path(name).open("a") as file:
                file.write("\n" + text)
        elif (name := step.says("prints")) is not None:
            self._named(name).has_to_print(text)
        elif step.language == "console":
            self._session(step, text)
        elif step.language == "sh":
            self._run(text)
        elif step.language == "python":
            program = self._path(f"line-{step.line}.py")
            program.write_text(text)
            self._run(f"python {program}")
        else:
            raise PageError(f"a block of {step.language} has to be a file, or to be left out with a reason")

    def _session(self, step: Step, text: str) -> None:
        commands = commands_of(text)
        for number, (command, shown) in enumerate(commands, 1):
            last = number == len(commands)
            if last and (name := step.says("runs on")) is not None:
                self._start(command, name).has_to_print(shown)
                continue
            code = int(step.says("exit") or 0) if last else 0
            deadline = time.monotonic() + (LIMIT_S if step.says("again") is not None else 0.0)
            while True:
                ended, printed = self._shell(command)
                if ended != code:
                    wrong = f"ended with code {ended}, not {code}"
                elif as_shown(shown, printed) < 0:
                    wrong = f"did not print\n{shown}\nbut"
                else:
                    break
                assert time.monotonic() < deadline, f"{command}\n{wrong}\n{printed}"
                time.sleep(0.1)

    def _run(self, command: str) -> str:
        code, printed = self._shell(command)
        assert code == 0, f"{command}\nended with code {code}:\n{printed}"
        return printed

    def _shell(self, command: str) -> tuple[int, str]:
        """Exit code and output; nothing that it leaves behind goes on."""
        process = Foreground(f"set -euo pipefail\n{command}", self._directory, self._environment)
        try:
            try:
                code = process.process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"{command}\nhas not ended:\n{process.printed}") from None
            return code, process.printed
        finally:
            process.end()

    def _start(self, command: str, name: str = "") -> Foreground:
        self._running.append(Foreground(command, self._directory, self._environment, name))
        return self._running[-1]

    def _named(self, name: str) -> Foreground:
        """A running command by its name; without one, the last that was started."""
        found = [process for process in self._running if name in ("", process.name)]
        assert found, f"nothing{f' of the name {name}' if name else ''} is running"
        return found[-1]

    @staticmethod
    def _wait_for_port(process: Foreground, port: int) -> None:
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                assert process.process.poll() is None, process.printed
                assert time.monotonic() < deadline, f"nobody listens on {port}: {process.printed}"
                time.sleep(0.02)

    def _path(self, name: str) -> Path:
        path = self._directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _placed(self, text: str) -> str:
        for name, here in self._places.items():
            edge = r"\b" if name.isdigit() else ""
            text = re.sub(rf"{edge}{re.escape(name)}{edge}", here, text)
        return text

    def _start_afresh(self) -> None:
        self._end_all()
        self._fresh += 1
        self._directory = self._home / str(self._fresh)
        self._directory.mkdir()

    def _end_all(self) -> None:
        while self._running:
            self._running.pop().end()
