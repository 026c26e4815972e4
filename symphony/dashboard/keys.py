"""Keys from the bytes that a terminal sends, and the terminal's mode that sends them at once."""

from __future__ import annotations

import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

_NAMED = {
    "\x03": "ctrl-c",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
}
_SEQUENCES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1bOC": "right",
    "\x1bOD": "left",
}
_NUMBERED = {"5~": "page up", "6~": "page down", "1~": "home", "4~": "end", "7~": "home", "8~": "end"}
_SEQUENCES |= {"\x1b[H": "home", "\x1b[F": "end", "\x1bOH": "home", "\x1bOF": "end"}


def read_keys(data: bytes) -> list[str]:
    """The names of the keys in what one read of a terminal gave (ECMA-48 sequences; unknown ones are nothing)."""
    text = data.decode("utf-8", "ignore")
    keys: list[str] = []
    at = 0
    while at < len(text):
        character = text[at]
        if character != "\x1b":
            name = _NAMED.get(character, character)
            if len(name) > 1 or character.isprintable():
                keys.append(name)
            at += 1
            continue
        sequence = text[at : at + 3]
        if sequence in _SEQUENCES:
            keys.append(_SEQUENCES[sequence])
            at += 3
        elif text[at + 1 : at + 2] == "[" and text[at + 2 : at + 4] in _NUMBERED:
            keys.append(_NUMBERED[text[at + 2 : at + 4]])
            at += 4
        elif text[at + 1 : at + 2] == "[":
            at += 2
            while (
                at < len(text) and not "@" <= text[at] <= "~"
            ):  # parameters of a sequence we have no name for
                at += 1
            at += 1
        else:
            keys.append("escape")
            at += 1
    return keys


@contextmanager
def keys_at_once(descriptor: int) -> Iterator[None]:
    """Have the terminal send every key as it is pressed, and not show it; restored whatever happens."""
    try:
        before = termios.tcgetattr(descriptor)
    except termios.error:  # no terminal: nobody presses keys there
        yield
        return
    after = termios.tcgetattr(descriptor)
    after[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(descriptor, termios.TCSANOW, after)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        sys.stdout.flush()
