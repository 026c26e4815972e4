"""Tells of refused connections, so seldom that an attack is not also a flood of events."""

from __future__ import annotations

from symphony.messages.events import Blocked
from symphony.observe.events import EventHub
from symphony.observe.reasons import Reason
from symphony.observe.throttle import Throttle

EVENTS_PER_SECOND = 20.0


class BlockEvents:
    """Publishes :class:`Blocked` to `hub`. To be called only while somebody listens (:attr:`EventHub.wanted`)."""

    __slots__ = ("_hub", "_throttle")

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub
        self._throttle = Throttle(EVENTS_PER_SECOND)

    def tell(
        self, reason: Reason, listener: str, ip: str, server_name: bytes | None, fingerprints: tuple[str, str]
    ) -> None:
        """Tell of one refusal, or count it as left out. `fingerprints` are JA3 and JA4, "" where not known."""
        left_out = self._throttle.allow()
        if left_out is not None:
            name = "" if server_name is None else server_name.decode("ascii", "backslashreplace")
            self._hub.publish(Blocked(listener, ip, reason.value, name, *fingerprints, left_out))
