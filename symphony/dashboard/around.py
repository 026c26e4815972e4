"""What the dashboard shows beside what is counted: who is refused, and which connections are held."""

from __future__ import annotations

from msgspec import Struct

from symphony.api.blocked import BlockedEntry
from symphony.messages.events import Suspended


class Around(Struct, frozen=True):
    """Sources that would be refused now, and how many more there are; connections that are held."""

    blocked: tuple[BlockedEntry, ...] = ()
    more_blocked: int = 0
    held: tuple[Suspended, ...] = ()
