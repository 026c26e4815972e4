"""Call a function in a short-lived forked process, so that what it touches never enters this one.

The supervisor's process lives as long as the proxy and is the parent of everything: a private key that it had
read once would be found in its memory, and in that of every child, for ever.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

Result = TypeVar("Result")


class ChildEnded(Exception):
    """The process ended without a result."""


def call_in_child(function: Callable[[], Result]) -> Result:
    """Return what `function` returns in a forked process; both it and its exceptions must survive pickling.

    Must be called before this process has threads or an event loop.

    Raises what `function` raises, and :class:`ChildEnded` when the process dies.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(function, here, there), name="one call")
    process.start()
    there.close()
    try:
        succeeded, value = here.recv()
    except EOFError:
        process.join()
        raise ChildEnded(f"a process forked for a check ended with code {process.exitcode}") from None
    finally:
        here.close()
    process.join()
    if succeeded:
        result: Result = value
        return result
    raise value


def _answer(function: Callable[[], Result], here: Connection, there: Connection) -> None:
    here.close()
    try:
        answer: tuple[bool, object] = (True, function())
    except Exception as error:  # noqa: BLE001 # it is raised again in the parent
        answer = (False, error)
    there.send(answer)
    there.close()
