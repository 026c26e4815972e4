"""Locks that a process which is killed lets go."""

from __future__ import annotations

import mmap
import os
import signal

import pytest

from symphony.protection.shared_locks import LOCK_SIZE, SharedLocks


def made(count: int = 3) -> SharedLocks:
    return SharedLocks(mmap.mmap(-1, 64 + LOCK_SIZE * count), 64, count)


def elsewhere(locks: SharedLocks, index: int) -> bool:
    """Whether another process gets a lock; it gives it back."""
    pid = os.fork()
    if pid == 0:
        taken = locks.take(index)
        if taken:
            locks.give_back(index)
        os._exit(taken)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_one_has_it_at_a_time() -> None:
    locks = made()
    assert len(locks) == 3
    assert locks.take(1)
    assert not locks.take(1), "nor the same process twice"
    assert not elsewhere(locks, 1)
    assert elsewhere(locks, 0) and elsewhere(locks, 2)
    locks.give_back(1)
    assert elsewhere(locks, 1)
    with pytest.raises(OSError, match="a lock in shared memory"):
        locks.give_back(1)


def test_all_or_none() -> None:
    locks = made()
    assert locks.take(2)
    assert not locks.take_all()
    locks.give_back(2)
    assert locks.take_all()
    assert not any(elsewhere(locks, index) for index in range(3))
    locks.give_all_back()
    assert all(elsewhere(locks, index) for index in range(3))


@pytest.mark.parametrize("how", [signal.SIGKILL, 0])
def test_a_process_that_is_gone_has_none(how: int) -> None:
    locks = made()
    for _ in range(3):  # each time, not only once
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            locks.take_all()
            os.write(told, b"!")
            if how:
                signal.pause()
            os._exit(0)
        os.close(told)
        assert os.read(ready, 1) == b"!"
        os.close(ready)
        if how:
            assert not locks.take(0) and not locks.take(2)
            os.kill(pid, how)
        os.waitpid(pid, 0)
        assert locks.take_all()
        locks.give_all_back()
