"""A child's process: forked through multiprocessing, watched through a pidfd, spoken with over a lifeline.

What the child sheds after the fork, and why that is safe. It inherits every descriptor of the supervisor: the other
children's lifelines, pidfds, the mailbox, the event loop's own. All are closed but those it is told to keep, because a
sibling's lifeline held open would hide the supervisor's death from that sibling. The Python objects that own those
descriptors are still in memory, and one of them finalised later would close a number that is in use again. None ever
is: they hang on frames of the supervisor that are still on the stack below the child's own and never unwind, since
multiprocessing leaves the child by ``os._exit``; and what was garbage in the supervisor is frozen out of the collector.

Signals are blocked from before the fork until the child has shed the supervisor's handlers. Otherwise a Ctrl-C in
between would run the supervisor's handler in the child, which writes to the supervisor's event loop: there it would
be a second Ctrl-C, and that one means to end at once.

SIGPIPE is left as Python sets it, ignored: a write to a closed connection must fail, not end the child.
"""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.popen_fork  # otherwise loaded at the first start only
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess

import setproctitle
from structlog import get_logger

from supervisor.action import Exit
from supervisor.spec import Birth, ChildSpec, Confine
from symphony.mailbox.framing import FrameDecoder
from symphony.mailbox.lifeline import MAX_LIFELINE_FRAME, ChildMessage, decode_child

_fork = multiprocessing.get_context("fork")
_STANDARD = (0, 1, 2)
_RECEIVE = 65536

log = get_logger("supervisor")


class ChildProcess:
    """A running child. `lifeline` and `pidfd` are the supervisor's ends, `pidfd` readable once the child has ended.

    `depth` is how many requests wait in its mailbox, as it said last.

    Raises OSError when there is no descriptor left for the pidfd; the process is then killed and reaped.
    """

    def __init__(self, process: BaseProcess, lifeline: socket.socket) -> None:
        assert process.pid is not None, "a started process has a pid"
        self._process = process
        self.pid: int = process.pid
        self.lifeline = lifeline
        self.depth = 0
        self._frames = FrameDecoder(MAX_LIFELINE_FRAME)
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except OSError:
            lifeline.close()
            process.kill()
            process.join()
            process.close()
            raise

    def send(self, frame: bytes) -> bool:
        """Send a frame, or nothing: a child that does not read its lifeline is not waited for."""
        try:
            return self.lifeline.send(frame, socket.MSG_NOSIGNAL) == len(frame)
        except OSError:
            return False

    def receive(self) -> Iterator[ChildMessage]:
        """Yield what it has sent.

        Raises EOFError when nothing more will come, and FrameError or ValueError for what cannot be understood.
        """
        while True:
            try:
                data = self.lifeline.recv(_RECEIVE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                raise EOFError("its end of the lifeline is closed")
            for payload in self._frames.feed(data):
                yield decode_child(payload)
            if len(data) < _RECEIVE:
                return

    def kill(self) -> None:
        """SIGKILL; nothing when it has ended already."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def reap(self) -> Exit | None:
        """How the process ended, or None when it has not."""
        code = self._process.exitcode
        if code is None:
            return None
        return Exit(signal=-code) if code < 0 else Exit(code=code)

    def ended_within(self, limit_s: float) -> bool:
        """Block for `limit_s` seconds at most; return whether the process has ended."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(max(0.0, limit_s) * 1000))

    def release(self) -> None:
        """Close what belongs to the process, ended or abandoned."""
        self.lifeline.close()
        os.close(self.pidfd)
        if self._process.exitcode is not None:
            self._process.close()
        else:
            # multiprocessing joins all it knows when the interpreter ends, and would wait for this one for ever.
            vars(multiprocessing.process)["_children"].discard(self._process)


def kill_all(children: list[ChildProcess], limit_s: float) -> None:
    """SIGKILL, reap and release `children`; those not gone within `limit_s` seconds are abandoned."""
    for child in children:
        child.kill()
    deadline = time.monotonic() + limit_s
    for child in children:
        child.ended_within(deadline - time.monotonic())
        child.release()


def spawn(spec: ChildSpec, incarnation: int, confine: Confine) -> ChildProcess:
    """Fork `spec`'s child, which is to call ``confine(kind)``.

    Raises OSError when the machine has no process, memory or descriptor left for it.
    """
    _flush_standard_streams()
    ours, theirs = socket.socketpair()
    try:
        ours.setblocking(False)
        birth = Birth(spec.name, incarnation, theirs, partial(confine, spec.kind))
        process = _fork.Process(target=_be_child, args=(spec, birth), name=spec.name)
        with _signals_blocked():
            _start(process, theirs)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ChildProcess(process, ours)


def _start(process: BaseProcess, theirs: socket.socket) -> None:
    """Start `process`, which takes `theirs` with it. After a failure no descriptor is left behind.

    multiprocessing makes two pipes before it forks, and loses them if the second one or the fork fails. Here is no
    other thread that could open anything at the same time, so what is new then is what was lost.
    """
    before = _open_descriptors()
    try:
        process.start()
    except OSError:
        theirs.close()  # first: where the descriptors are used up, the listing needs one
        for descriptor in _open_descriptors() - before:
            os.close(descriptor)
        raise


def _be_child(spec: ChildSpec, birth: Birth) -> None:
    """Run in the child, with all signals blocked; multiprocessing turns a return into exit code 0."""
    gc.freeze()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    # Ctrl-C goes to the whole process group; the supervisor alone decides what then happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _close_all_but({*_STANDARD, birth.lifeline.fileno(), *spec.keep_fds})
    _read_nothing()
    setproctitle.setproctitle(spec.title)
    try:
        spec.run(birth)
    except Exception:
        log.exception("child_failed", child=spec.name)
        raise SystemExit(1) from None
    finally:
        _flush_standard_streams()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _flush_standard_streams() -> None:
    """Flush them, and let go of one that cannot be written.

    multiprocessing flushes them before each fork and at each child's end. One that nobody reads any more would make
    every fork fail there, and every normal end an abnormal one.
    """
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except OSError:
            setattr(sys, name, None)
        except (AttributeError, ValueError):
            continue  # there is none, or it is closed: multiprocessing minds neither


def _read_nothing() -> None:
    """Make standard input empty: a terminal's is the supervisor's."""
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0)
        os.close(null)
    # multiprocessing put it on a descriptor that is closed by now and will be something else's.
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for the life of the process


def _open_descriptors() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        try:
            os.fstat(descriptor)
        except OSError:
            continue  # the listing's own, closed by now
        found.add(descriptor)
    return found


def _close_all_but(kept: set[int]) -> None:
    for descriptor in _open_descriptors() - kept:
        try:
            os.close(descriptor)
        except OSError:
            continue  # on Linux it is closed all the same; the error is of something written before
