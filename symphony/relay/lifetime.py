"""What both relays have besides moving bytes: two sockets, a limit on silence, and an end that is a failure."""

from __future__ import annotations

import socket

from symphony.observe.reasons import Reason
from symphony.relay.direction import IDLE_CHECKS, LINGER_S, Owner
from symphony.relay.host import RelayHost
from symphony.relay.sockets import reset_on_close, undelivered
from symphony.relay.timer_wheel import TICK_S


class Silence:
    """For how long nothing may move, in seconds (0: for ever), and what the end is called that follows.

    `half_closed` is what holds once one direction has ended: its own limit where that is the shorter one. One object
    serves all connections of a listener.
    """

    __slots__ = ("half_closed", "limit_s", "reason")

    def __init__(self, idle_s: float, half_closed_s: float) -> None:
        self.limit_s = idle_s
        self.reason = Reason.IDLE_TIMEOUT
        self.half_closed = self
        if half_closed_s and (half_closed_s <= idle_s or not idle_s):
            self.half_closed = Silence(half_closed_s, 0.0)
            self.half_closed.reason = Reason.HALF_CLOSE_TIMEOUT


class Lifetime:
    """Base of both relays; `_close` is theirs. One entry in the timer wheel serves all of its time limits."""

    __slots__ = ("_client", "_host", "_idle_for", "_owner", "_seen", "_silence", "_upstream", "timer_tick")

    def __init__(
        self,
        host: RelayHost,
        owner: Owner,
        client: socket.SocketType,
        upstream: socket.SocketType,
        silence: Silence,
    ) -> None:
        self._host = host
        self._owner = owner
        self._client = client
        self._upstream = upstream
        self._silence = silence
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
        """Look at the limit again in a while; nothing where there is none."""
        limit_s = self._silence.limit_s
        if limit_s:
            self._host.wheel.schedule(self, limit_s / IDLE_CHECKS)

    def _half_close(self) -> None:
        """One direction has ended, or is about to: from now on the limit for such connections holds."""
        before, silence = self._silence, self._silence.half_closed
        if silence is before:
            return
        self._silence = silence
        if silence.limit_s == before.limit_s:
            self._idle_for = -1  # looked at before a quarter of the time is over, which must not count as one
        else:
            self._idle_for = 0
            self._watch_idle()

    def _is_idle(self, moved: int) -> bool:
        """Whether the total of bytes has been `moved` for the whole limit; looks again when it has not."""
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
        self._silence = self._silence.half_closed  # an end seen from now on must not put the timer off
        self._idle_for = 0
        self._reset_when_delivered(sink, reason)

    def _reset_when_delivered(self, sink: socket.SocketType, reason: Reason) -> None:
        self._idle_for += 1
        if self._idle_for > LINGER_S / TICK_S or not undelivered(sink):
            self.abort(reason)
        else:
            self._host.wheel.schedule(self, TICK_S)
