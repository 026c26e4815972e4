"""Hands an acceptor's events to those who asked for them."""

from __future__ import annotations

from typing import Protocol

from symphony.messages.events import Event


class Subscriber(Protocol):
    """The way to one who listens (:class:`symphony.mailbox.server.Sender`)."""

    def push(self, message: Event) -> bool:
        """Send `message`; False when nobody will read it any more."""


class EventHub:
    """One per acceptor. An event that nobody asked for costs a look at `wanted`, if the caller looks first."""

    __slots__ = ("_subscribers", "wanted")

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []
        self.wanted = False

    def subscribe(self, subscriber: Subscriber) -> None:
        """Send every event to `subscriber` from now on. One that subscribes twice gets each event once."""
        if subscriber not in self._subscribers:
            self._subscribers.append(subscriber)
            self.wanted = True

    def publish(self, event: Event) -> None:
        """Send `event` to all; who does not read (the mailbox drops such a one) is forgotten."""
        gone = [subscriber for subscriber in self._subscribers if not subscriber.push(event)]
        for subscriber in gone:
            self.unsubscribe(subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Send nothing more to `subscriber`, if it was there."""
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)
            self.wanted = bool(self._subscribers)
