"""From a route to a connected upstream socket: the least loaded upstream first, each tried at most once.

An upstream that refuses, is missing, cannot be reached or does not answer in time is left for the next best one. A
Unix socket whose backlog is full answers EAGAIN, which is neither a refusal nor a connection under way: the others
are tried first, and then it is asked again every few milliseconds until its time limit.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic_ns

from symphony.config.model import UdsUpstream
from symphony.connection.resolver import Address
from symphony.connection.state import ServingState
from symphony.observe.reasons import Reason
from symphony.relay.sockets import tune_tcp
from symphony.routing.balancer import Balancer
from symphony.routing.upstream import UpstreamSlot

_BUSY_PAUSE_S = 0.05

_REASONS = {
    errno.ECONNREFUSED: Reason.UPSTREAM_REFUSED,
    errno.ENOENT: Reason.UPSTREAM_MISSING,
    errno.ETIMEDOUT: Reason.UPSTREAM_TIMEOUT,
    errno.EAGAIN: Reason.UPSTREAM_BUSY,
    errno.EMFILE: Reason.DESCRIPTOR_LIMIT,
    errno.ENFILE: Reason.DESCRIPTOR_LIMIT,
}

# The upstream has only a full backlog, or the fault is this machine's: no descriptor, port or memory left.
_BLAMELESS = frozenset(
    {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}
)

_UNIX = int(socket.AF_UNIX)
_TYPE = socket.SOCK_STREAM | socket.SOCK_NONBLOCK

Connected = Callable[[socket.SocketType, UpstreamSlot], None]
Failed = Callable[[Reason, str], None]


class Connector:
    """One search for an upstream. Calls `connected` or `failed` exactly once, unless cancelled.

    The upstream being tried counts as active from the beginning of the attempt (see its record); the slot handed to
    `connected` stays counted, and whoever takes it gives it back by ``slot.record.closed``. `address` is the client's.
    """

    __slots__ = (
        "_address",
        "_addresses",
        "_balancer",
        "_began",
        "_busy",
        "_connected",
        "_failed",
        "_last",
        "_looping",
        "_pending",
        "_slot",
        "_sock",
        "_state",
        "_tried",
        "_waiting_until",
        "timer_tick",
    )

    def __init__(
        self,
        state: ServingState,
        balancer: Balancer,
        connected: Connected,
        failed: Failed,
        address: str = "",
    ) -> None:
        self._state = state
        self._address = address
        self._began = 0
        self._balancer = balancer
        self._connected = connected
        self._failed = failed
        self._tried: set[UpstreamSlot] = set()
        self._busy: list[UpstreamSlot] = []
        self._slot: UpstreamSlot | None = None
        self._sock: socket.SocketType | None = None
        self._addresses: list[Address] = []
        self._last: tuple[Reason, str] = (Reason.UPSTREAM_UNREACHABLE, "no upstream")
        self._waiting_until = 0.0
        self._looping = self._pending = False
        self.timer_tick = 0

    def start(self) -> None:
        """Try the best upstream; the outcome may come before this returns."""
        self._try_next()

    def cancel(self) -> None:
        """Forget the search: the client has gone."""
        self._drop_attempt()

    def _try_next(self) -> None:
        """Try what is left, in a loop: hundreds of dead upstreams would otherwise be as many calls deep."""
        self._pending = True
        if self._looping:
            return  # an attempt of the loop below failed at once
        self._looping = True
        while self._pending:
            self._pending = False
            slot = self._balancer.pick(self._tried, self._address)
            if slot is None:
                self._wait_for_busy()
            else:
                self._tried.add(slot)
                self._try(slot)
        self._looping = False

    def _try(self, slot: UpstreamSlot) -> None:
        self._slot = slot
        self._began = monotonic_ns()
        slot.record.begin()
        upstream = slot.upstream
        if isinstance(upstream, UdsUpstream):
            self._addresses = []
            self._connect((_UNIX, upstream.path))
        else:
            known = self._state.resolver.addresses(
                upstream.host, upstream.port, partial(self._resolved, slot)
            )
            if not known:
                self._state.host.wheel.schedule(self, upstream.connect_timeout_ms / 1000)

    def _resolved(self, slot: UpstreamSlot, addresses: Sequence[Address]) -> None:
        if self._slot is not slot or self._sock is not None:
            return  # cancelled, or too late
        if self.timer_tick:
            self._state.host.wheel.cancel(self)
        if not addresses:
            self._attempt_failed(Reason.UPSTREAM_UNRESOLVED)
            return
        self._addresses = list(addresses[1:])
        self._connect(addresses[0])

    def _connect(self, address: Address) -> None:
        family, destination = address
        try:
            sock = socket.SocketType(family, _TYPE)
        except OSError as error:
            self._address_failed(error.errno or errno.EIO)
            return
        self._sock = sock
        try:
            if family != _UNIX:
                tune_tcp(sock)
            code = sock.connect_ex(destination)
        except OSError as error:
            code = error.errno or errno.EIO
        if not code:
            self._succeeded()
        elif code == errno.EINPROGRESS:
            slot = self._slot
            assert slot is not None, "an attempt has a slot"
            host = self._state.host
            host.add_writer(sock.fileno(), self._writable)
            host.wheel.schedule(self, slot.upstream.connect_timeout_ms / 1000)
        else:
            self._address_failed(code)

    def _writable(self) -> None:
        sock = self._sock
        assert sock is not None, "a watched attempt has a socket"
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._address_failed(code)
        else:
            self._state.host.remove_writer(sock.fileno())
            self._succeeded()

    def on_timer(self) -> None:
        """An attempt has taken too long, or busy upstreams are to be asked again."""
        if self._sock is not None:
            self._address_failed(errno.ETIMEDOUT)
        elif self._slot is not None:
            self._attempt_failed(Reason.UPSTREAM_UNRESOLVED, "no answer from the name service in time")
        else:
            self._ask_busy_again()

    def _succeeded(self) -> None:
        sock, slot = self._sock, self._slot
        assert sock is not None and slot is not None, "an attempt has a socket and a slot"
        self._sock = self._slot = None
        if self.timer_tick:
            self._state.host.wheel.cancel(self)
        took_ns = monotonic_ns() - self._began
        slot.record.connected(took_ns // 1000)
        self._state.ledger.connected(took_ns / 1e9)
        self._connected(sock, slot)

    def _address_failed(self, code: int) -> None:
        self._close_socket()
        if self._addresses and code != errno.EMFILE:
            self._connect(self._addresses.pop(0))
            return
        reason = _REASONS.get(code, Reason.UPSTREAM_UNREACHABLE)
        self._attempt_failed(reason, os.strerror(code), blameless=code in _BLAMELESS)

    def _attempt_failed(self, reason: Reason, detail: str = "", *, blameless: bool = False) -> None:
        slot = self._slot
        assert slot is not None, "an attempt has a slot"
        self._slot = None
        if blameless:
            slot.record.abandoned()
        else:
            slot.failed(detail or reason.value)
        if reason is Reason.UPSTREAM_BUSY:
            self._busy.append(slot)
        self._last = (reason, f"{slot.upstream.label}: {detail or reason.value}")
        self._try_next()

    def _wait_for_busy(self) -> None:
        now = self._state.host.loop.time()
        if not self._busy:
            self._failed(*self._last)
            return
        if not self._waiting_until:
            self._waiting_until = now + max(slot.upstream.connect_timeout_ms for slot in self._busy) / 1000
        if now >= self._waiting_until:
            self._failed(Reason.UPSTREAM_BUSY, self._busy[0].upstream.label)
        else:
            self._state.host.wheel.schedule(self, _BUSY_PAUSE_S)

    def _ask_busy_again(self) -> None:
        # A busy upstream has not been tried in the sense of the rule: it never saw the connection.
        for slot in self._busy:
            self._tried.discard(slot)
        self._busy.clear()
        self._try_next()

    def _close_socket(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._state.host.forget(sock.fileno())
            sock.close()
        if self.timer_tick:
            self._state.host.wheel.cancel(self)

    def _drop_attempt(self) -> None:
        self._close_socket()
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.record.abandoned()
