"""What all relays of a process share: one poller, one transfer buffer, one timer wheel, the pipes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from symphony.relay.pipes import PipePool
from symphony.relay.poller import Poller
from symphony.relay.timer_wheel import TimerWheel
from symphony.tls.library import TransferBuffer


class RelayHost:
    """One per process. A descriptor is removed or forgotten before it is closed, always."""

    __slots__ = (
        "add_reader",
        "add_writer",
        "buffer",
        "forget",
        "loop",
        "pipes",
        "poller",
        "remove_reader",
        "remove_writer",
        "unwatch_hangup",
        "watch_hangup",
        "wheel",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, buffer_size: int, on_error: Callable[[BaseException], None]
    ) -> None:
        """`buffer_size` is in bytes, at least one TLS record (16384); `on_error` gets what a handler raises."""
        self.loop = loop
        self.poller = Poller(loop, on_error)
        # Bound once: the relays call these for every change of what they wait for.
        self.add_reader = self.poller.add_reader
        self.add_writer = self.poller.add_writer
        self.remove_reader = self.poller.remove_reader
        self.remove_writer = self.poller.remove_writer
        self.watch_hangup = self.poller.watch_hangup
        self.unwatch_hangup = self.poller.unwatch_hangup
        self.forget = self.poller.forget
        self.buffer = TransferBuffer(buffer_size)
        self.wheel = TimerWheel(loop, on_error)
        self.pipes = PipePool()

    def resize_buffer(self, size: int) -> None:
        """Take a buffer of another size; relays hold none between two callbacks, so any time will do."""
        if size != self.buffer.size:
            self.buffer = TransferBuffer(size)

    def close(self) -> None:
        """Give up what the host owns; the relays must be closed by then."""
        self.pipes.close()
        self.poller.close()


def owner_of(error: BaseException) -> Any:
    """The object in whose method `error` was raised first: the connection to end when a handler fails.

    A handler that raises would be called again at once, as its descriptor stays ready, and so for ever.
    """
    trace = error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if hasattr(owner, "abort"):
            return owner
        trace = trace.tb_next
    return None
