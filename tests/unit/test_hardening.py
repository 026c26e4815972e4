"""What processes give up, as the kernel says afterwards."""

from __future__ import annotations

import ctypes
import os
import resource

from symphony.host.hardening import confine, forbid_dumps
from tests.support.forked import in_child

PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
State = tuple[int, bool, int]
HARD = resource.getrlimit(resource.RLIMIT_CORE)[1]
CORE = 4096 if HARD == resource.RLIM_INFINITY else min(HARD, 4096)


def state() -> State:
    """Whether memory may be dumped, whether new privileges are out of reach, and the limit on core files."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    dumpable = ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)
    return dumpable, lines["NoNewPrivs"].strip() == "1", resource.getrlimit(resource.RLIMIT_CORE)[0]


def after(*steps: object) -> tuple[State, State]:
    """The state after the steps, and that of a child which is forked then."""

    def go() -> tuple[State, State]:
        resource.setrlimit(resource.RLIMIT_CORE, (CORE, HARD))
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # a test that changed its user has lost it
        for step in steps:
            step()  # type: ignore[operator]
        return state(), in_child(state)

    result: tuple[State, State] = in_child(go)
    return result


def test_before_anything() -> None:
    assert after() == ((1, False, CORE),) * 2


def test_no_dumps() -> None:
    assert after(forbid_dumps) == ((0, False, 0),) * 2


def test_confined() -> None:
    assert after(lambda: confine("acceptor", core_dumps=False, account=None)) == ((0, True, 0),) * 2


def test_confined_with_core_dumps() -> None:
    assert after(lambda: confine("acceptor", core_dumps=True, account=None)) == ((1, True, CORE),) * 2


def test_a_process_without_dumps_reads_of_itself_what_it_needs() -> None:
    """The kernel gives its files in /proc to root; those that Symphony reads about itself stay readable."""

    def go() -> bool:
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)
        forbid_dumps()
        return in_child(lambda: len(os.listdir("/proc/self/fd")) > 0)

    assert in_child(go)
