"""The sections of the dashboard apart from routes and upstreams, and the overview of all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rich.text import Text

from symphony.dashboard.around import Around
from symphony.dashboard.colours import ASIDE, ILL, WELL
from symphony.dashboard.history import History
from symphony.dashboard.numbers import short, size
from symphony.dashboard.section import Row, Rows, Section
from symphony.dashboard.traffic import Traffic
from symphony.observe.telemetry import ActorTelemetry, Telemetry

_EVENTS_ON_OVERVIEW = 50


class Sections:
    """All sections of one frame; those about routes and upstreams are `traffic`."""

    def __init__(self, history: History, now: Telemetry, around: Around, traffic: Traffic) -> None:
        self._history = history
        self._now = now
        self._around = around
        self._traffic = traffic

    def overview(self, events: Sequence[str]) -> list[Section]:
        """What is worth a line at a glance; what there is nothing of is left out."""
        found = [self.actors(), self.listeners(), self._traffic.routes(), self._traffic.upstreams()]
        if self._around.held or self._now.held:
            found.append(self.held())
        if self._around.blocked:
            found.append(self.blocked())
        if self._now.totals.errors:
            found.append(self.failures())
        if events:
            lines = [(Text(event, no_wrap=True),) for event in reversed(events[-_EVENTS_ON_OVERVIEW:])]
            found.append(Section(("event",), lines))
        return found

    def actors(self) -> Section:
        """The tree."""
        now, rows = self._now, []
        held = {each.name: each.held for each in now.acceptors}

        def is_well(actor: ActorTelemetry) -> bool:
            return actor.state == "running" and actor.name not in now.silent

        # Those that something is wrong with are not to be the ones that are cut off.
        for actor in sorted(now.actors, key=is_well):
            well = is_well(actor)
            state = actor.state if actor.name not in now.silent else "silent"
            cpu = self._history.cpu(actor.name)
            version = now.applied.get(actor.name)
            rows.append(
                (
                    actor.name,
                    Text(state, style=WELL if well else ILL),
                    str(actor.pid or "-"),
                    "-" if cpu is None else f"{cpu * 100:.0f} %",
                    size(actor.rss_bytes),
                    str(actor.restarts),
                    str(actor.depth),
                    "-" if version is None else str(version),
                    str(held[actor.name]) if actor.name in held else "-",
                )
            )
        names = ("actor", "state", "pid", "cpu", "memory", "restarts", "waiting", "config", "held")
        return Section(names, rows, texts=2)

    def listeners(self) -> Section:
        """Those that are served, or still have connections."""
        rows = []
        for at, listener in enumerate(self._now.totals.listeners):
            if not listener.address:
                continue
            rate = partial(self._listener_rate, listener.id, at)
            rows.append(
                (
                    Text(listener.address).append(
                        " closing" if listener.state == "closing" else "", style=ASIDE
                    ),
                    short(listener.active),
                    short(rate("accepted")),
                    short(rate("handshakes")),
                    short(rate("failed")),
                    short(rate("blocked")),
                    size(rate("bytes_up")),
                    size(rate("bytes_down")),
                )
            )
        names = ("listener", "active", "acc/s", "hands/s", "fail/s", "block/s", "up/s", "down/s")
        return Section(names, rows)

    def _listener_rate(self, id: str, at: int, field: str) -> float:
        def value(state: Telemetry) -> float:
            listeners = state.totals.listeners
            # Mostly at the same place; looked for only when it is not.
            found = listeners[at] if at < len(listeners) and listeners[at].id == id else None
            if found is None:
                found = next((each for each in listeners if each.id == id), None)
            if found is None:
                return 0.0
            counted = getattr(found, field)
            return float(sum(counted.values()) if isinstance(counted, dict) else counted)

        return self._history.rate(value)

    def held(self) -> Section:
        """Connections that wait for a decision."""
        return Section(
            ("held", "asks for", "client", "for", "left"),
            [
                (
                    one.id,
                    printable(one.sni) or "no name",
                    one.peer_ip,
                    f"{one.held_ms / 1000:.0f} s",
                    f"{max(0, one.timeout_ms - one.held_ms) / 1000:.0f} s",
                )
                for one in self._around.held
            ],
            texts=3,
        )

    def blocked(self) -> Section:
        """Sources that would be refused now."""
        more = self._around.more_blocked
        addresses = {listener.id: listener.address for listener in self._now.totals.listeners}
        return Section(
            (f"blocked, {more} more" if more else "blocked", "because", "on", "for"),
            [
                (
                    entry.source,
                    entry.reason,
                    addresses.get(entry.listener) or entry.listener,
                    f"{entry.seconds:.0f} s" if entry.seconds else "-",
                )
                for entry in self._around.blocked
            ],
            texts=3,
        )

    def failures(self) -> Section:
        """Why connections ended early."""
        found = sorted(self._now.totals.errors.items(), key=lambda item: -item[1])

        def row(at: int) -> Row:
            reason, times = found[at]
            return (
                reason,
                short(times),
                short(self._history.rate(lambda state: state.totals.errors.get(reason, 0))),
            )

        return Section(("ended early by", "times", "a second"), Rows(len(found), row))


def printable(text: str) -> str:
    """What clients send, as they spelled it, without what a terminal would act on."""
    return "".join(character if character.isprintable() else "?" for character in text)
