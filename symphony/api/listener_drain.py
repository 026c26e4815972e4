"""Takes single listeners out of service, and back in, while the rest of the instance goes on.

A listener that drains keeps its sockets, which only stop listening: its port is free for as long as nobody wants it
back. What an operator has closed stays closed over restarts of acceptors, reloads and upgrades, until it is opened
again or the instance is started anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from structlog import get_logger

from symphony.api.generation import Generation
from symphony.api.generations import Generations
from symphony.api.listening import BoundListener
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxError, ask
from symphony.mailbox.envelope import Refused
from symphony.messages.acceptor import AcceptorReply, LeaveListener, ListenerHeeded, ServeListener
from symphony.messages.control import DrainBegun, Drained, ListenerResumed
from symphony.observe.books import Books

_ACCEPTOR_ANSWERS_WITHIN_S = 3.0
_LOOK_EVERY_S = 0.05

log = get_logger("listeners")


class ListenerDrains:
    """Neither :meth:`drain` nor :meth:`resume` may overlap with each other or with a change of generations."""

    def __init__(self, runtime_dir: str, generations: Generations, books: Books) -> None:
        self._runtime_dir = runtime_dir
        self._generations = generations
        self._books = books
        self._cutting: dict[str, asyncio.Task[None]] = {}
        self._cut: dict[str, int] = {}
        self._counting: set[str] = set()

    async def drain(self, name: str, timeout_s: float | None) -> DrainBegun | Refused:
        """Let nobody in any more on the listener `name`, and cut after `timeout_s` seconds what is open still.

        Said again it is about the time alone.
        """
        listener = self._find(name)
        if listener is None:
            return self._unknown(name)
        if listener.lasting:
            return Refused(
                f"{listener.address} is the service manager's, which keeps it open: clients would wait without end"
            )
        address = listener.address
        if not self._generations.drains(listener):
            self._generations.draining.add(address)
            self._cut[address] = 0
            await self._tell((self._generations.current,), address, cut=False)
            listener.refuse()  # for those that did not answer
            log.info("listener_draining", listener=address, connections=self._active(address))
        self._leave_in_peace(address)
        if timeout_s is not None:
            self._cutting[address] = asyncio.get_running_loop().create_task(
                self._cut_after(address, timeout_s), name=f"cut {address}"
            )
        return DrainBegun(address, self._active(address), timeout_s)

    async def resume(self, name: str) -> ListenerResumed | Refused:
        """Let clients in again."""
        listener = self._find(name)
        if listener is None:
            return self._unknown(name)
        address = listener.address
        if not self._generations.drains(listener):
            return Refused(f"{address} does not drain")
        try:
            listener.listen()
        except OSError as error:
            listener.refuse()
            return Refused(f"{address} cannot be opened again: {error.strerror}")
        self._generations.draining.discard(address)
        self._leave_in_peace(address)
        current = self._generations.current
        answers = await asyncio.gather(
            *(self._ask(each, ServeListener(listener.id)) for each in current.names)
        )
        behind = tuple(each for each, answer in zip(current.names, answers, strict=True) if answer is None)
        log.info("listener_open", listener=address, behind=list(behind))
        return ListenerResumed(address, behind)

    async def drained(self, name: str) -> Drained | Refused:
        """Return when the listener `name`, which drains, has no connection left."""
        listener = self._find(name)
        if listener is None:
            return self._unknown(name)
        address = listener.address
        while address in self._generations.draining:
            if not self._active(address) and address not in self._counting:
                return Drained(self._cut.get(address, 0))
            await asyncio.sleep(_LOOK_EVERY_S)
        return Refused(f"{address} does not drain")

    def close(self) -> None:
        """Cut nothing more."""
        for address in tuple(self._cutting):
            self._leave_in_peace(address)

    def _leave_in_peace(self, address: str) -> None:
        cutting = self._cutting.pop(address, None)
        if cutting is not None:
            cutting.cancel()

    async def _cut_after(self, address: str, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)
        generations = self._generations
        self._counting.add(address)
        try:
            cut = await self._tell((generations.current, *generations.older), address, cut=True)
            self._cut[address] = self._cut.get(address, 0) + cut
        finally:
            self._counting.discard(address)
        log.warning("listener_cut", listener=address, connections=cut)

    async def _tell(self, generations: Iterable[Generation], address: str, *, cut: bool) -> int:
        """Have acceptors leave the listener at `address`; return how many connections they cut."""
        answers = await asyncio.gather(
            *(
                self._ask(name, LeaveListener(listener.id, cut))
                for generation in generations
                for listener in generation.listeners
                if listener.address == address
                for name in generation.names
            )
        )
        return sum(answer.cut for answer in answers if answer is not None)

    async def _ask(self, acceptor: str, message: LeaveListener | ServeListener) -> ListenerHeeded | None:
        path = mailbox_path(self._runtime_dir, acceptor)
        try:
            async with asyncio.timeout(_ACCEPTOR_ANSWERS_WITHIN_S):
                answer = await ask(path, message, AcceptorReply, _ACCEPTOR_ANSWERS_WITHIN_S)
        except (MailboxError, TimeoutError) as error:
            # Its successor finds the sockets as they are by then.
            log.warning("acceptor_not_told", acceptor=acceptor, reason=str(error) or "no answer")
            return None
        return answer if isinstance(answer, ListenerHeeded) else None

    def _find(self, name: str) -> BoundListener | None:
        listeners = self._generations.current.listeners
        return next((each for each in listeners if name in (each.id, each.address)), None)

    def _unknown(self, name: str) -> Refused:
        there = ", ".join(each.address for each in self._generations.current.listeners)
        return Refused(f"there is no listener {name!r}; there is {there}")

    def _active(self, address: str) -> int:
        generations = self._generations
        everything = (generations.current, *generations.older)
        ids = {each.id for one in everything for each in one.listeners if each.address == address}
        totals = self._books.totals()
        return sum(totals.of_listener(id)[1] for id in ids)
