"""Who hears of events, and what it costs when nobody does."""

from __future__ import annotations

from symphony.messages.events import Event, Released
from symphony.observe.events import EventHub


class Ear:
    def __init__(self, patience: int = 1000) -> None:
        self.heard: list[Event] = []
        self._patience = patience

    def push(self, message: Event) -> bool:
        self.heard.append(message)
        return len(self.heard) < self._patience


def test_everybody_hears_every_event_once() -> None:
    hub, one, two = EventHub(), Ear(), Ear()
    assert not hub.wanted
    hub.subscribe(one)
    hub.subscribe(one)
    hub.subscribe(two)
    assert hub.wanted
    hub.publish(Released("a", "left"))
    assert one.heard == two.heard == [Released("a", "left")]
    hub.unsubscribe(one)
    hub.publish(Released("b", "left"))
    assert (len(one.heard), len(two.heard)) == (1, 2)
    hub.unsubscribe(one)
    hub.unsubscribe(two)
    assert not hub.wanted


def test_who_does_not_read_is_forgotten_and_the_others_hear_on() -> None:
    hub, deaf, good = EventHub(), Ear(2), Ear()
    hub.subscribe(deaf)
    hub.subscribe(good)
    for _ in range(5):
        hub.publish(Released("a", "left"))
    assert (len(deaf.heard), len(good.heard)) == (2, 5)
    hub.unsubscribe(good)
    assert not hub.wanted
