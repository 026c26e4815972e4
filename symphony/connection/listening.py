"""The listening sockets of one acceptor: which of them it serves, from when on, and what becomes of them at its end.

Every acceptor has the sockets of all in its hands, and what one does to a socket it does for everybody who has it. So
each serves its own, those of a neighbour that is gone (:mod:`symphony.connection.adoption`), and takes a socket out of
service only while its generation holds them (:mod:`symphony.connection.tenure`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence

from structlog import get_logger

from symphony.connection import listener_drain
from symphony.connection.accepting import AcceptLoop
from symphony.connection.adoption import ADOPT_AFTER_S, Neighbourhood
from symphony.connection.state import ListenerSeat, ServingState
from symphony.connection.tenure import Stage, Tenure
from symphony.relay.sockets import shut_reading

LOOK_EVERY_S = 0.01
"""How often an acceptor that is ready looks whether its generation holds the sockets by now."""

log = get_logger("acceptor")


class ListeningSockets:
    """What acceptor `index` of `names` accepts from; nothing before :meth:`take_up`, nothing after :meth:`stop`."""

    def __init__(
        self,
        index: int,
        names: Sequence[str],
        seats: Sequence[ListenerSeat],
        sockets: Mapping[str, Sequence[socket.socket]],
        tenure: Tenure | None,
    ) -> None:
        """`sockets` has those of each listener by its id. Without a `tenure` they are held. Needs a running loop."""
        self._index = index
        self._names = names
        self._seats = seats
        self._sockets = sockets
        self._tenure = tenure or Tenure(len(names), Stage.HOLDING)
        self._neighbours = Neighbourhood(index, len(names))
        self._loop = asyncio.get_running_loop()
        self._state: ServingState | None = None
        self._own: list[AcceptLoop] = []
        self._adopted: dict[int, list[AcceptLoop]] = {}
        self._stopping = False
        self._tenure.note(index, accepting=False)

    @property
    def adopted(self) -> tuple[str, ...]:
        """The acceptors whose sockets are served besides the own ones."""
        return tuple(self._names[index] for index in sorted(self._adopted))

    def take_up(self, state: ServingState) -> None:
        """Begin to accept as soon as the generation holds the sockets."""
        self._state = state
        if self._stopping:
            return
        if self._tenure.stage is Stage.AWAITED:
            self._loop.call_later(LOOK_EVERY_S, self.take_up, state)
            return
        self._own = self._accept_from(self._index)
        self._tenure.note(self._index, accepting=True)
        self._adopt()

    def stop(self) -> None:
        """Stop accepting; what waits is taken first, unless others serve it now."""
        self._stopping = True
        self._give_back(frozenset())
        last = self._tenure.stage is Stage.HOLDING
        for loop in self._own:
            loop.stop(take_waiting=last)
        if last:
            # At once: between the last accept and this, nobody else may have been made to wait.
            self._refuse(self._index)

    def abandon(self) -> None:
        """Free the ports: no successor will serve what queues up there, and another instance may want them now."""
        if self._tenure.stage is Stage.HOLDING:
            for index in range(len(self._names)):
                self._refuse(index)

    def neighbour(self, name: str, up: bool) -> None:
        """Adopt the sockets of a neighbour that is gone, once its successor has had its chance; give them back."""
        if name not in self._names or self._stopping:
            return
        index = self._names.index(name)
        if up:
            self._neighbours.mark_up(index)
            self._give_back(self._neighbours.duties())
        else:
            self._neighbours.mark_down(index)
            self._loop.call_later(ADOPT_AFTER_S, self._adopt)

    def leave(self, id: str, *, cut: bool) -> int:
        """Take a listener out of service, and with `cut` end its connections; return how many were ended."""
        state = self._state
        assert state is not None, "a listener that is left is served"
        ended = 0
        for seat in self._seats_of(id):
            # What waits for sockets that were passed on is served by those who have them now.
            if self._tenure.stage is Stage.HOLDING and self._own:
                served = (self._index, *self._adopted)
                sockets = [sock for index in served for sock in self._of(seat, index)]
                listener_drain.leave(seat, self._all_loops(), sockets, state.ledger)
            if cut:
                ended += listener_drain.cut(seat, state.ledger)
        return ended

    def serve(self, id: str) -> None:
        """Put a listener back into service."""
        for seat in self._seats_of(id):
            listener_drain.serve(seat, self._all_loops())

    def _refuse(self, index: int) -> None:
        """Let nobody in any more by the sockets of acceptor `index`, whoever has them open."""
        for seat in self._seats:
            for sock in self._of(seat, index):
                shut_reading(sock)

    def _of(self, seat: ListenerSeat, index: int) -> Sequence[socket.socket]:
        """The sockets of a listener that acceptor `index` serves: several where there once were more acceptors."""
        return self._sockets[seat.id][index :: len(self._names)]

    def _adopt(self) -> None:
        if self._stopping or not self._own or self._tenure.stage is Stage.PASSED_ON:
            return
        for index in self._neighbours.duties() - self._adopted.keys():
            log.info("adopting", sockets_of=self._names[index])
            self._adopted[index] = self._accept_from(index)

    def _give_back(self, duties: frozenset[int]) -> None:
        for index in self._adopted.keys() - duties:
            log.info("giving_back", sockets_of=self._names[index])
            for loop in self._adopted.pop(index):
                loop.stop()

    def _accept_from(self, index: int) -> list[AcceptLoop]:
        """Start to accept on the sockets of acceptor `index`."""
        assert self._state is not None, "accepting needs a plan"
        loops = [
            AcceptLoop(self._state, seat, sock) for seat in self._seats for sock in self._of(seat, index)
        ]
        for loop in loops:
            loop.start()
        return loops

    def _seats_of(self, id: str) -> list[ListenerSeat]:
        return [seat for seat in self._seats if seat.id == id]

    def _all_loops(self) -> list[AcceptLoop]:
        return [*self._own, *(loop for loops in self._adopted.values() for loop in loops)]
