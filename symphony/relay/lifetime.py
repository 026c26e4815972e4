"""What both relays have besides moving bytes: two sockets, an idle limit, and an end that is a failure."""

from __future__ import annotations

import socket

from symphony.observe.reasons import Reason
from symphony.relay.direction import IDLE_CHECKS, LINGER_S, Owner
from symphony.relay.host import RelayHost
from symphony.relay.sockets import reset_on_close, undelivered
from symphony.relay.timer_wheel import TICK_S


class Lifetime:
    """Base of both relays; `_close` is theirs. One entry in the timer wheel serves all of its time limits."""

    __slots__ = ("_client", "_host", "_idle_for", "_idle_limit", "_owner", "_seen", "_upstream", "timer_tick")

    def __init__(
        self,
        host: RelayHost,
        owner: Owner,
        client: socket.SocketType,
        upstream: socket.SocketType,
        idle_limit_s: float,
    ) -> None:
        self._host = host
        self._owner = owner
        self._client = client
        self._upstream = upstream
        self._idle_limit = idle_limit_s
        self._idle_for = 0
        self._seen = 0
        self.timer_tick = 0

    def on_timer(self) -> None:
        """A time limit is to be looked at."""
        raise NotImplementedError

    def abort(self, reason: Reason) -> None:
        """End at once and let both sides see a failure (rule 7 of :mod:`symphony.relay.terminated`)."""
        reset_on_close(self._client)
        reset_on_close(self._upstream)
        self._close(reason)

    def _close(self, reason: Reason | None) -> None:
        raise NotImplementedError

    def _watch_idle(self) -> None:
        """Look at the idle limit again in a while; nothing where there is none."""
        if self._idle_limit:
            self._host.wheel.schedule(self, self._idle_limit / IDLE_CHECKS)

    def _is_idle(self, moved: int) -> bool:
        """Whether the total of bytes has been `moved` for the whole idle limit; looks again when it has not."""
        if moved != self._seen:
            self._seen = moved
            self._idle_for = 0
        else:
            self._idle_for += 1
            if self._idle_for >= IDLE_CHECKS:
                return True
        self._watch_idle()
        return False

    def _begin_failing(self, sink: socket.SocketType, reason: Reason) -> None:
        """Reset both sides when `sink` has received what came before the failure, or has had its time."""
        self._idle_for = 0
        self._reset_when_delivered(sink, reason)

    def _reset_when_delivered(self, sink: socket.SocketType, reason: Reason) -> None:
        self._idle_for += 1
        if self._idle_for > LINGER_S / TICK_S or not undelivered(sink):
            self.abort(reason)
        else:
            self._host.wheel.schedule(self, TICK_S)
