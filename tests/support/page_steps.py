"""A page's steps, read from its Markdown: blocks, what is said above each, and what is to be done between them.

:mod:`tests.support.walkthrough` says what the comments mean.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from markdown_it import MarkdownIt

_COMMENT = re.compile(r"<!--\s*test:\s*(.*?)\s*-->", re.DOTALL)
_MODIFIERS = ("file", "append", "where", "runs on", "prints", "again", "exit", "not run,")
_ORDERS = ("ports", "paths", "fresh", "given", "interrupt")


class PageError(AssertionError):
    """The page says something that is not so, or that cannot be understood; the text begins with the place."""


class Step(NamedTuple):
    """One block with what is said above it, or, with an empty language, one thing to do between blocks."""

    line: int
    language: str
    text: str
    said: tuple[tuple[str, str], ...]

    def says(self, name: str) -> str | None:
        """The rest of that comment; None where it is not there."""
        return dict(self.said).get(name)


def read_steps(markdown: str, name: str) -> list[Step]:
    """What a page consists of, in its order. Raises :class:`PageError`."""
    steps: list[Step] = []
    waiting: list[tuple[str, str]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "html_block":
            for said in _COMMENT.findall(token.content):
                if (word := _first_of(_MODIFIERS, said)) is not None:
                    waiting.append((word, said[len(word) :].strip()))
                elif (word := _first_of(_ORDERS, said)) is not None:
                    steps.append(Step(line, "", said[len(word) :].strip(), ((word, ""),)))
                else:
                    raise PageError(f"{name}:{line}: nobody knows what {said!r} asks for")
        elif token.type in ("fence", "code_block"):
            if token.type == "code_block" or not token.info.strip():
                raise PageError(f"{name}:{line}: a block without a language")
            if token.info.startswith("{"):
                continue  # an order to the generator of the site
            steps.append(Step(line, token.info.split()[0], token.content, tuple(waiting)))
            waiting = []
    if waiting:
        raise PageError(f"{name}: no block follows {waiting[0][0]!r}")
    return steps


def _first_of(words: tuple[str, ...], text: str) -> str | None:
    return next((word for word in words if re.match(rf"{re.escape(word)}(\s|$)", text)), None)


def as_shown(shown: str, printed: str, *, whole: bool = True, since: int = 0) -> int:
    """Where in `printed` ends what `shown` shows; -1 where it is not so.

    `whole`: from the beginning to the end. Otherwise whole lines anywhere after `since` are enough.
    """
    lines = []
    for line in shown.rstrip("\n").split("\n"):
        if line.strip() == "...":
            lines.append(r"(?:.*\n)*?")
        else:
            lines.append(r"[^\n]*?".join(map(_words, line.rstrip().split("..."))) + r"[ \t]*\n")
    pattern = "".join(lines) if shown.strip() else ""
    if whole:
        return len(printed) if re.fullmatch(pattern, _ended(printed)) else -1
    found = re.compile("^" + pattern, re.MULTILINE).search(printed, since)
    return found.end() if found else -1


def _words(text: str) -> str:
    return r"[ \t]+".join(map(re.escape, re.split(r"[ \t]+", text)))


def _ended(text: str) -> str:
    """`text` with one end of line at its end, and not several; nothing stays nothing."""
    return f"{text.rstrip(chr(10))}\n" if text.strip("\n") else ""


def commands_of(session: str) -> list[tuple[str, str]]:
    """The commands of a console session, each with what is shown below it."""
    found: list[tuple[str, str]] = []
    going_on = False
    for line in session.splitlines():
        going_on = going_on or (line.startswith("> ") and bool(found))
        if going_on or line.startswith("$ "):
            command = line[2:] if line.startswith(("$ ", "> ")) else line
            if going_on:
                command = f"{found.pop()[0]}\n{command}"
            found.append((command, ""))
            going_on = line.endswith("\\")
        else:
            if not found:
                raise PageError(f"a session begins with a command, not with {line!r}")
            command, shown = found[-1]
            found[-1] = (command, shown + line + "\n")
    return found
