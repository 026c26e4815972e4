"""Which acceptors serve: how a new generation of them takes over from the one before without losing a connection.

A change goes in two steps. First everything is prepared that may fail: new addresses are bound, the new acceptors
are started and get ready, and touch nothing; if any of it fails, all of it is undone, and the present acceptors have
noticed nothing. Then the sockets pass: the new acceptors begin to accept, on the very sockets that the others accept
from, and only when they do, the others stop accepting, finish the connections that they have, and go.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Collection, Iterable

from structlog import get_logger

from supervisor.spec import ChangeRefused
from supervisor.supervisor import NotStarted, Supervisor
from symphony.api.generation import Generation, new_generation
from symphony.api.listening import BoundListener, bind_listeners, close_sockets
from symphony.api.tree import Blueprint, acceptor_group, time_to_stop
from symphony.config.topology import Topology
from symphony.connection.tenure import Stage
from symphony.host.descriptors import needed, raise_limit
from symphony.observe.books import Books
from symphony.relay.sockets import shut_reading, waiting_to_be_accepted

_ACCEPTING_WITHIN_S = 5.0
_LOOK_EVERY_S = 0.005
_HANDSHAKES_WITHIN_S = 1.0
"""How long the kernel may take over handshakes that began on a socket which another one takes the place of."""
_ACCEPTED_WITHIN_S = 1.0
"""How long to look for a moment in which nobody waits to be accepted."""

MOST_OLDER = 8
"""How many generations may finish their connections at a time: each is as many processes as there are workers."""

log = get_logger("generations")


class TooManyDraining(Exception):
    """There are no new acceptors before some of the earlier ones are gone; the text says so."""


class Generations:
    """All acceptors of one tree. `current` takes the connections; `older` ones finish theirs.

    `on_change` is called whenever a generation has begun or is gone. `draining` are the addresses of listeners that an
    operator has closed: whatever takes the place of what, they stay so.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        blueprint: Blueprint,
        books: Books,
        first: Generation,
        drain_timeout_s: float,
    ) -> None:
        self.current = first
        self.older: list[Generation] = []
        self.drain_timeout_s = drain_timeout_s
        self.draining: set[str] = set()
        self.on_change: Callable[[], None] | None = None
        self._supervisor = supervisor
        self._blueprint = blueprint
        self._books = books
        self._acceptors = len(first.names)
        self._retiring: set[asyncio.Task[None]] = set()
        self._given_away = False

    @property
    def crowded(self) -> bool:
        """Whether there can be no new acceptors at present."""
        return len(self.older) >= MOST_OLDER

    def listener_ids(self) -> tuple[str, ...]:
        """Every listener that somebody serves or has connections of."""
        return tuple(
            {listener.id: None for each in (self.current, *self.older) for listener in each.listeners}
        )

    def drains(self, listener: BoundListener) -> bool:
        """Whether an operator has closed `listener`."""
        return listener.address in self.draining

    def refuse(self) -> None:
        """Let nobody in any more, and free the ports, unless they are another's now."""
        if not self._given_away:
            for listener in self.current.listeners:
                listener.refuse()

    async def follow(self, file: str, wanted: Topology) -> bool:
        """Serve as `wanted` says; return whether that took other acceptors.

        Raises :class:`ConfigError` (with `file` as its file) when an address cannot be bound, :class:`NotStarted`
        when the new acceptors cannot be started, :class:`TooManyDraining`, and :class:`ChangeRefused` when everything
        is about to stop. The present ones then go on as before.
        """
        if self._given_away:
            raise ChangeRefused("another process has taken over")
        self.allow_to_drain(wanted.drain_timeout_ms / 1000)
        current = self.current
        same = {listener.id for listener in current.listeners} == {entry.id for entry in wanted.listeners}
        if same and len(current.names) == wanted.workers:
            return False
        if self.crowded:
            raise TooManyDraining(
                f"{len(self.older)} earlier generations of acceptors still have connections: the next one begins when "
                "one of them is gone, at the latest after drain_timeout_ms"
            )
        raise_limit(needed(wanted.listeners))
        listeners = bind_listeners(
            file, wanted.listeners, wanted.workers, current.listeners, self._blueprint.passed
        )
        new = new_generation(
            current.number + 1,
            self._acceptors,
            listeners,
            wanted.workers,
            self._books,
            Stage.AWAITED,
        )
        try:
            await self._start(new)
        except (NotStarted, ChangeRefused):
            self._books.close(new.pages)
            close_sockets(listeners, but=current.listeners)
            raise
        self._acceptors += len(new.names)
        await self._pass_on(current, new)
        self._retire_later(current)
        return True

    async def share(self) -> None:
        """Begin to accept from sockets that are still another tree's, beside its acceptors. Raises OSError."""
        self._listen(self.current)
        self.current.tenure.stage = Stage.SHARING
        await self._accepting(self.current)

    def take_over(self) -> None:
        """The sockets are this tree's alone."""
        self.current.tenure.stage = Stage.HOLDING

    def give_away(self) -> None:
        """Another tree's acceptors take the connections from now on. Can be undone by :meth:`take_over`."""
        self.current.tenure.stage = Stage.PASSED_ON

    async def see_out(self, taken: Collection[str]) -> None:
        """Close all listeners but those at the addresses `taken`; return when no acceptor is left."""
        self._given_away = True
        for listener in self.current.listeners:
            if listener.address not in taken:
                listener.refuse()
            listener.close()
        self._retire_later(self.current)
        await asyncio.gather(*self._retiring)

    def allow_to_drain(self, drain_timeout_s: float) -> None:
        """Give the present acceptors so long for their connections when they stop."""
        if drain_timeout_s == self.drain_timeout_s:
            return
        self.drain_timeout_s = drain_timeout_s
        self._supervisor.allow_to_stop(self.current.group, time_to_stop(drain_timeout_s))

    async def _start(self, new: Generation) -> None:
        earlier = [page for page in self._books.pages if page not in new.pages]
        pages = (*new.pages, *earlier)
        await self._supervisor.add(acceptor_group(self._blueprint, new, pages, self.drain_timeout_s))
        try:
            self._listen(new)
        except OSError as error:
            await self._supervisor.retire(new.group)
            raise NotStarted(f"they cannot listen: {error.strerror}") from error

    def _listen(self, generation: Generation) -> None:
        """Raises OSError."""
        for listener in generation.listeners:
            if not self.drains(listener):
                listener.listen()

    async def _pass_on(self, old: Generation, new: Generation) -> None:
        new.tenure.stage = Stage.HOLDING
        self.current = new
        self.older.append(old)
        await self._accepting(new)
        gone = _without(old.listeners, new.listeners)
        if _share_a_port(gone, new.listeners):
            # From a wider address to a narrower one, new connections come to the new ones already.
            await asyncio.sleep(_HANDSHAKES_WITHIN_S)
            await self._refuse_between_two(gone)
        old.tenure.stage = Stage.PASSED_ON
        for listener in gone:
            listener.refuse()
            listener.close()
        self.draining.intersection_update(listener.address for listener in new.listeners)
        log.info(
            "acceptors_replaced",
            serving=list(new.names),
            draining=list(old.names),
            listeners=[listener.address for listener in new.listeners],
            closed=[listener.address for listener in gone],
        )
        self._tell()

    async def _refuse_between_two(self, listeners: Iterable[BoundListener]) -> None:
        """Have their sockets refuse, each while nobody waits at it: the ones who come next find the new ones.

        From a narrower address to a wider one, connections come here until the very end.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ACCEPTED_WITHIN_S
        for listener in listeners:
            for sock in listener.sockets:
                while waiting_to_be_accepted(sock) and loop.time() < deadline:  # noqa: ASYNC110 - by the kernel's count
                    await asyncio.sleep(_LOOK_EVERY_S)
                shut_reading(sock)

    async def _accepting(self, generation: Generation) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ACCEPTING_WITHIN_S
        # One that does not come to it is hung or was killed; its neighbours serve its sockets when that is found.
        while not generation.tenure.all_accept() and loop.time() < deadline:  # noqa: ASYNC110 - by shared memory
            await asyncio.sleep(_LOOK_EVERY_S)

    def _retire_later(self, old: Generation) -> None:
        task = asyncio.get_running_loop().create_task(self._retire(old), name=f"retire {old.group}")
        self._retiring.add(task)
        task.add_done_callback(self._retired)

    async def _retire(self, old: Generation) -> None:
        try:
            await self._supervisor.retire(old.group)
        except ChangeRefused:
            return  # everything has ended meanwhile
        self._books.close(old.pages)
        if old in self.older:
            self.older.remove(old)
        log.info("acceptors_gone", acceptors=list(old.names))
        self._tell()

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._retiring.discard(task)
        # What a supervision tree forgets refers to itself in circles, and with it the memory that its acceptors shared
        # with this process. The collector counts objects: a few that hold much would stay for hours.
        asyncio.get_running_loop().call_soon(gc.collect)

    def _tell(self) -> None:
        if self.on_change is not None:
            self.on_change()


def _without(listeners: Iterable[BoundListener], others: Iterable[BoundListener]) -> list[BoundListener]:
    """Those of `listeners` whose sockets none of `others` has."""
    kept = {sock for other in others for sock in other.sockets}
    return [listener for listener in listeners if kept.isdisjoint(listener.sockets)]


def _share_a_port(some: Iterable[BoundListener], others: Iterable[BoundListener]) -> bool:
    """Whether one of `others` has the port of one of `some`, on another address that may include it."""
    ports = {listener.port for listener in others}
    return any(listener.port in ports for listener in some)
