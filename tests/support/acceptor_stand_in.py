"""An acceptor's mailbox served by a test: it holds what the test says, and tells it to who subscribes."""

from __future__ import annotations

import os

from symphony.mailbox.address import mailbox_path
from symphony.mailbox.envelope import Refused
from symphony.mailbox.server import MailboxServer, Sender
from symphony.messages.acceptor import AcceptorReply, AcceptorRequest
from symphony.messages.events import Event, EventsSubscribed, Released, SubscribeEvents, Suspended
from symphony.messages.held import HeldPage, ListHeld

PAGE = 3


def suspended(id: str) -> Suspended:
    return Suspended(id, "127.0.0.1:443", "a.test", "a.test", "127.0.0.1", 4711, "", "", 30_000)


class AcceptorStandIn:
    """Pages of its list have :data:`PAGE` entries. `deaf`: it refuses subscriptions."""

    def __init__(self, runtime_dir: str, name: str) -> None:
        self.name = name
        self.held: dict[str, Suspended] = {}
        self._numbers: dict[str, int] = {}
        self.subscribers: list[Sender] = []
        self.deaf = False
        self.mailbox = MailboxServer(mailbox_path(runtime_dir, name), AcceptorRequest, self._answer)

    def _answer(self, message: AcceptorRequest, sender: Sender) -> AcceptorReply:
        if isinstance(message, SubscribeEvents):
            if self.deaf:
                return Refused("not yet")
            self.subscribers.append(sender)
            return EventsSubscribed(self.name)
        assert isinstance(message, ListHeld)
        later = [id for id in self.held if self._numbers[id] > message.after]
        shown = later[:PAGE]
        following = self._numbers[shown[-1]] if len(later) > PAGE else 0
        return HeldPage(tuple(self.held[id] for id in shown), following)

    def tell(self, event: Event) -> None:
        """Tell whoever listens."""
        for sender in self.subscribers:
            sender.push(event)

    def hold(self, *ids: str) -> None:
        """Hold connections and say so."""
        for id in ids:
            self._numbers[id] = len(self._numbers) + 1
            self.held[id] = suspended(id)
            self.tell(self.held[id])

    def release(self, id: str, how: str) -> None:
        """Let a connection go and say so."""
        del self.held[id]
        self.tell(Released(id, how))

    async def die(self) -> None:
        """Be gone as by SIGKILL: nothing is said, and the socket's file stays."""
        path = self.mailbox.path
        os.rename(path, f"{path}.kept")
        await self.mailbox.close()
        os.rename(f"{path}.kept", path)

    def cut_off(self) -> None:
        """Lose every subscriber, and go on."""
        self.subscribers.clear()
        for connection in tuple(self.mailbox.connections):
            connection.abort()
