"""A child's process: forked through multiprocessing, watched through a pidfd, spoken with over a lifeline.

What the child sheds after the fork, and why that is safe. It inherits every descriptor of the supervisor: the other
children's lifelines, pidfds, the mailbox, the event loop's own. All are closed but those it is told to keep, because a
sibling's lifeline held open would hide the supervisor's death from that sibling. The Python objects that own those
descriptors are still in memory, and one of them finalised later would close a number that is in use again. None ever
is: they hang on frames of the supervisor that are still on the stack below the child's own and never unwind, since
multiprocessing leaves the child by ``os._exit``; and what was garbage in the supervisor is frozen out of the collector.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
from multiprocessing.process import BaseProcess

import setproctitle
from structlog import get_logger

from supervisor.action import Exit
from supervisor.spec import Birth, ChildSpec

_fork = multiprocessing.get_context("fork")
_STANDARD = (0, 1, 2)
_RESET = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGALRM)

log = get_logger("supervisor")


class ChildProcess:
    """A running child. `lifeline` and `pidfd` are the supervisor's ends, `pidfd` readable once the child has ended."""

    def __init__(self, process: BaseProcess, lifeline: socket.socket) -> None:
        assert process.pid is not None, "a started process has a pid"
        self._process = process
        self.pid: int = process.pid
        self.lifeline = lifeline
        self.pidfd = os.pidfd_open(self.pid)

    def send(self, frame: bytes) -> bool:
        """Send a frame, or nothing: a child that does not read its lifeline is not waited for."""
        try:
            return self.lifeline.send(frame, socket.MSG_NOSIGNAL) == len(frame)
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL; nothing when it has ended already."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def reap(self) -> Exit | None:
        """How the process ended, or None when it has not."""
        self._process.join(0)
        code = self._process.exitcode
        if code is None:
            return None
        return Exit(signal=-code) if code < 0 else Exit(code=code)

    def release(self) -> None:
        """Close what belongs to the process, ended or abandoned."""
        self.lifeline.close()
        os.close(self.pidfd)
        if self._process.exitcode is not None:
            self._process.close()


def spawn(spec: ChildSpec, incarnation: int) -> ChildProcess:
    """Fork `spec`'s child. Raises OSError when the machine has no process, memory or descriptor left for it."""
    ours, theirs = socket.socketpair()
    try:
        ours.setblocking(False)
        process = _fork.Process(
            target=_be_child, args=(spec, Birth(spec.name, incarnation, theirs)), name=spec.name
        )
        process.start()
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ChildProcess(process, ours)


def _be_child(spec: ChildSpec, birth: Birth) -> None:
    """Run in the child; multiprocessing turns a return into exit code 0."""
    gc.freeze()
    # Before the handlers: a signal must not be written to the supervisor's event loop.
    signal.set_wakeup_fd(-1)
    for number in _RESET:
        signal.signal(number, signal.SIG_DFL)
    # Ctrl-C goes to the whole process group; the supervisor alone decides what then happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _close_all_but({*_STANDARD, birth.lifeline.fileno(), *spec.keep_fds})
    setproctitle.setproctitle(spec.title)
    try:
        spec.run(birth)
    except Exception:
        log.exception("child_failed", child=spec.name)
        raise SystemExit(1) from None


def _close_all_but(kept: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor not in kept:
            try:
                os.close(descriptor)
            except OSError:
                pass  # the listing's own descriptor is gone by now
