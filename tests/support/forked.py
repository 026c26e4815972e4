"""A function in a process of its own, for what cannot be undone: limits, privileges, users."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from typing import Any


def in_child(function: Callable[[], Any]) -> Any:
    """What `function` returns in a forked process; AssertionError with its traceback when it raises."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.close(reading)
            try:
                answer = (True, function())
            except BaseException:  # noqa: BLE001 - told to the test
                answer = (False, traceback.format_exc())
            with open(writing, "wb") as pipe:
                pickle.dump(answer, pipe)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as pipe:
        content = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0, "the child died"
    succeeded, value = pickle.loads(content)
    assert succeeded, value
    return value
