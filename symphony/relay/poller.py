"""Readiness of connections' descriptors: an epoll instance of our own, itself watched by the event loop.

Why not the event loop's ``add_reader``. uvloop stands on libuv, and libuv stops watching a descriptor for good when the
kernel reports an error on it (EPOLLERR), without calling the handler: a connection that is reset while it is only read
would hang until its idle limit. Here an error or a hang-up calls whatever handler there is, again and again while it
lasts, and the read or write that follows tells what happened. It also costs less: no handle object and no context per
descriptor, and one turn of the event loop serves all descriptors that are ready.

Rules:

1. A descriptor with no handler is not in the epoll set: the kernel would report hang-ups all the same.
2. :meth:`Poller.forget` is for a descriptor that is closed next: closing takes it out of the set, which saves the
   system call. The process must not fork while connections are open, or the copy would keep the descriptor in the set.
3. Events are fetched in batches. A handler may close a descriptor that a later event of the batch is about, and the
   number may be in use again by then: events for descriptors that were added during the batch are passed over.
   Readiness is level-triggered, so a true one is reported again.
4. A turn of the event loop costs as much as serving two descriptors. So one that was called stays while there is work,
   waiting up to WAIT_S for more, and gives the loop its turn after STAY_S. That is how long mailboxes and timers may
   have to wait on a busy acceptor.
5. To sleep and be woken costs as much as serving two descriptors, too, and a process with many connections is woken
   for one event and then the next. So when several connections were served and none is ready, it does not wait for the
   first event but for GATHER_S, and serves what has come by then at one go. A network card that holds its interrupts
   back does the same. It never waits while there is work, nor with one connection at a time, which could only lose.
6. A descriptor is watched either for reading or for a hang-up only. The latter is for bytes that are left unread on
   purpose: the socket is readable all the time, which is then no event, but that the peer has gone still is one.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from time import monotonic, sleep

_FEW = 64

Handler = Callable[[], None]
OnError = Callable[[BaseException], None]

_IN = select.EPOLLIN
_OUT = select.EPOLLOUT
_HANGUP = select.EPOLLRDHUP  # the kernel adds EPOLLHUP and EPOLLERR by itself
_READ = _IN | _HANGUP  # a handler for either stands among the readers
BATCH = 32
"""So few that the kernel's answer is built in small memory, and so many that a busy process is served."""

STAY_S = 0.002
WAIT_S = 0.0005
GATHER_S = 0.00005
"""The kernel's timer slack, 50 us unless somebody changed it, comes on top."""

GATHER_AFTER = 4
"""So many events in a row, some of them at the same time, before it is worth while to gather."""


class Poller:
    """Calls handlers when descriptors are ready. One per process."""

    __slots__ = ("_epoll", "_fresh", "_loop", "_masks", "_on_error", "_places", "_readers", "_writers")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_error: OnError) -> None:
        """`on_error` is called with what a handler raised; the other handlers go on."""
        self._loop = loop
        self._on_error = on_error
        self._epoll = select.epoll()
        # By descriptor. For such small numbers a list takes a fraction of a dictionary's memory, and is read faster;
        # next to no connection waits to write. The last place is nobody's: it is that of -1, a closed socket's number.
        self._masks: list[int] = [0] * _FEW
        self._readers: list[Handler | None] = [None] * _FEW
        self._writers: dict[int, Handler] = {}
        self._places = _FEW - 1
        self._fresh: set[int] = set()
        loop.add_reader(self._epoll.fileno(), self._dispatch)

    def add_reader(self, descriptor: int, handler: Handler) -> None:
        """Call `handler` while `descriptor` is readable, instead of what was called before."""
        mask = self._mask(descriptor)
        self._readers[descriptor] = handler
        if not mask & _IN:
            self._set(descriptor, mask, mask | _IN)

    def add_writer(self, descriptor: int, handler: Handler) -> None:
        """Call `handler` while `descriptor` is writable, instead of what was called before."""
        mask = self._mask(descriptor)
        self._writers[descriptor] = handler
        if not mask & _OUT:
            self._set(descriptor, mask, mask | _OUT)

    def watch_hangup(self, descriptor: int, handler: Handler) -> None:
        """Call `handler` while the peer of `descriptor` has ended its direction or the connection has failed.

        Instead of what was called before for reading; bytes that wait to be read are no event (rule 6).
        """
        mask = self._mask(descriptor)
        self._readers[descriptor] = handler
        if mask & _READ != _HANGUP:
            self._set(descriptor, mask, mask & ~_IN | _HANGUP)

    def unwatch_hangup(self, descriptor: int) -> None:
        """Stop watching `descriptor` for a hang-up, watched or not; reading is watched again when it is asked for."""
        mask = self._mask(descriptor)
        if mask & _HANGUP:
            self._readers[descriptor] = None
            self._set(descriptor, mask, mask & ~_HANGUP)

    def remove_reader(self, descriptor: int) -> None:
        """Stop watching `descriptor` for reading, watched or not."""
        mask = self._mask(descriptor)
        if mask & _IN:
            self._readers[descriptor] = None
            self._set(descriptor, mask, mask & ~_IN)

    def remove_writer(self, descriptor: int) -> None:
        """Stop watching `descriptor` for writing, watched or not."""
        mask = self._mask(descriptor)
        if mask & _OUT:
            del self._writers[descriptor]
            self._set(descriptor, mask, mask & ~_OUT)

    def forget(self, descriptor: int) -> None:
        """Forget a descriptor that the caller closes before it does anything else (rule 2)."""
        mask = self._mask(descriptor)
        if mask:
            self._masks[descriptor] = 0
            self._readers[descriptor] = None
            if mask & _OUT:
                del self._writers[descriptor]

    def close(self) -> None:
        """Stop for good."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._masks[:] = [0] * len(self._masks)
        self._readers[:] = [None] * len(self._readers)
        self._writers.clear()

    def _mask(self, descriptor: int) -> int:
        """What `descriptor` is watched for; there is a place for it afterwards."""
        if descriptor >= self._places:
            more = descriptor - self._places + descriptor // 2 + _FEW
            self._masks += [0] * more
            self._readers += [None] * more
            self._places += more
        return self._masks[descriptor]

    def _set(self, descriptor: int, before: int, after: int) -> None:
        if not before:
            self._epoll.register(descriptor, after)
            self._fresh.add(descriptor)
        elif after:
            self._epoll.modify(descriptor, after)
        else:
            self._epoll.unregister(descriptor)
        self._masks[descriptor] = after

    def _dispatch(self) -> None:
        """Serve descriptors for as long as they keep coming, for :data:`STAY_S` at most (rule 4)."""
        fresh = self._fresh
        poll = self._epoll.poll
        readers, find_writer = self._readers, self._writers.get
        leave_at = monotonic() + STAY_S
        served = 0
        crowded = False
        ready = poll(0.0, BATCH)
        while ready:
            fresh.clear()
            for descriptor, events in ready:
                if fresh and descriptor in fresh:
                    continue
                if events != _OUT:
                    handler = readers[descriptor]
                    if handler is not None:
                        try:
                            handler()
                        except Exception as error:  # noqa: BLE001 - told; the others are not to suffer
                            self._on_error(error)
                    if events == _IN:
                        continue
                handler = find_writer(descriptor)
                if handler is not None and not (fresh and descriptor in fresh):
                    try:
                        handler()
                    except Exception as error:  # noqa: BLE001 - as above
                        self._on_error(error)
            if self._epoll.closed or monotonic() >= leave_at:
                return
            count = len(ready)
            served += count
            if count > 1:
                crowded = True
            if crowded and served >= GATHER_AFTER:
                ready = poll(0.0, BATCH)
                if ready:
                    continue
                served = 0
                crowded = False
                sleep(GATHER_S)
            ready = poll(WAIT_S, BATCH)
