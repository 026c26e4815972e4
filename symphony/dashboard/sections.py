"""The sections of the dashboard, made from what was gathered."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rich.text import Text

from symphony.config.server_name import DEFAULT_ROUTE
from symphony.dashboard.around import Around
from symphony.dashboard.history import Flow, History
from symphony.dashboard.numbers import milliseconds, short, size, sparkline
from symphony.dashboard.section import Cell, Row, Rows, Section
from symphony.dashboard.view import View
from symphony.observe.histogram import Histogram
from symphony.observe.telemetry import ActorTelemetry, RouteState, Telemetry, UpstreamState

_EVENTS_ON_OVERVIEW = 50
_TREND = 16
"""How many points of a sparkline a line has room for; only on wide screens."""

_WELL = "green"
_ILL = "bold red"
_ASIDE = "yellow"


class Sections:
    """All sections of one frame. `wide`: there is room for sparklines in the lines; `plain`: for ASCII only."""

    def __init__(
        self,
        history: History,
        now: Telemetry,
        around: Around,
        view: View,
        *,
        wide: bool = False,
        plain: bool = False,
        marked: bool = False,
    ) -> None:
        self._history = history
        self._now = now
        self._around = around
        self._view = view
        self._wide = wide
        self._plain = plain
        self._marked = marked
        self._states: dict[str, RouteState] = {state.route: state for state in now.route_states}
        self._upstream_states: dict[str, str] = {}
        for state in now.route_states:
            for each in state.upstreams:
                self._upstream_states[each.upstream] = _worse(
                    self._upstream_states.get(each.upstream), _spelled(each)
                )

    def overview(self, events: Sequence[str]) -> list[Section]:
        """What is worth a line at a glance; what there is nothing of is left out."""
        found = [self.actors(), self.listeners(), self.routes(), self.upstreams()]
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
                    Text(state, style=_WELL if well else _ILL),
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
                        " closing" if listener.state == "closing" else "", style=_ASIDE
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

    def routes(self) -> Section:
        """Every route, in the chosen order; fills in which are shown, for the selection."""
        view = self._view
        flows = self._chosen(
            self._history.flows(
                lambda state: state.totals.routes, [state.route for state in self._now.route_states]
            )
        )
        view.shown_routes = [flow.key for flow in flows]
        view.selected = min(view.selected, max(0, len(flows) - 1))
        names: tuple[str, ...] = (
            f"route by {view.sort}",
            "healthy",
            "active",
            "conn/s",
            "fail/s",
            "up/s",
            "down/s",
            "p50",
            "p99",
        )
        if self._wide:
            names = (*names, "of late")
        return Section(
            names, Rows(len(flows), lambda at: self._route_row(flows[at])), view.selected, marked=self._marked
        )

    def _route_row(self, flow: Flow) -> Row:
        state = self._states.get(flow.key)
        row: list[Cell] = [
            flow.key or DEFAULT_ROUTE,
            _healthy(state),
            *_flow_cells(flow),
            *self._quantiles("handshake_times", flow.key),
        ]
        if self._wide:
            row.append(Text(self._trend("routes", flow.key, "connections", _TREND), style=_WELL))
        return row

    def upstreams(self) -> Section:
        """Every upstream, in the chosen order."""
        flows = self._chosen(
            self._history.flows(lambda state: state.totals.upstreams, list(self._upstream_states))
        )
        names: tuple[str, ...] = (
            "upstream",
            "state",
            "active",
            "conn/s",
            "fail/s",
            "up/s",
            "down/s",
            "p50",
            "p99",
        )
        if self._wide:
            names = (*names, "of late")
        return Section(names, Rows(len(flows), lambda at: self._upstream_row(flows[at])), texts=2)

    def _upstream_row(self, flow: Flow) -> Row:
        state = self._upstream_states.get(flow.key, "-")
        row: list[Cell] = [
            flow.key,
            _coloured(state),
            *_flow_cells(flow),
            *self._quantiles("connect_times", flow.key),
        ]
        if self._wide:
            row.append(Text(self._trend("upstreams", flow.key, "connections", _TREND), style=_WELL))
        return row

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

    def route(self) -> list[Section]:
        """One route, and its upstreams."""
        key = self._view.route
        state = self._states.get(key)
        flows = [
            flow for flow in self._history.flows(lambda one: one.totals.routes, [key]) if flow.key == key
        ]
        if state is None and key not in self._now.totals.routes:
            return [Section((f"route {key or DEFAULT_ROUTE}",), [("is not configured any more",)])]
        flow = flows[0]
        totals = self._now.totals.routes.get(key)
        p50, p99 = self._quantiles("handshake_times", key)

        def figure(name: str, field: str, render: object = short) -> Row:
            assert callable(render)
            total = getattr(totals, field) if totals is not None else 0
            return name, render(total), render(getattr(flow, field)), self._trend("routes", key, field, 40)

        figures = Section(
            (f"route {key or DEFAULT_ROUTE}", "total", "a second", "of late"),
            [
                (
                    "open connections",
                    short(flow.active),
                    "",
                    self._trend("routes", key, "active", 40, rate=False),
                ),
                figure("connections", "connections"),
                figure("ended early", "failures"),
                figure("bytes up", "bytes_up", size),
                figure("bytes down", "bytes_down", size),
                ("handshake, half within", p50, "", ""),
                ("handshake, 99 % within", p99, "", ""),
            ],
        )
        labels = [each.upstream for each in state.upstreams] if state is not None else []
        spelled = {each.upstream: _spelled(each) for each in state.upstreams} if state is not None else {}
        by_label = {
            found.key: found for found in self._history.flows(lambda one: one.totals.upstreams, labels)
        }
        upstreams = Section(
            (
                "its upstreams, over all routes",
                "state",
                "active",
                "conn/s",
                "fail/s",
                "up/s",
                "down/s",
                "p50",
                "p99",
            ),
            [
                (
                    label,
                    _coloured(spelled[label]),
                    *_flow_cells(by_label[label]),
                    *self._quantiles("connect_times", label),
                )
                for label in labels
            ],
            texts=2,
        )
        return [figures, upstreams]

    def _quantiles(self, field: str, key: str) -> tuple[str, str]:
        """The times of late of a route's handshakes, or of connecting to an upstream: p50 and p99."""
        found = self._history.lately(lambda state: getattr(state.totals, field).get(key, Histogram()))
        return milliseconds(found.quantile(0.5)), milliseconds(found.quantile(0.99))

    def _trend(self, kind: str, key: str, field: str, points: int, *, rate: bool = True) -> str:
        def value(state: Telemetry) -> float:
            records = getattr(state.totals, kind)
            return float(getattr(records[key], field)) if key in records else 0.0

        values = self._history.series(value, points) if rate else self._history.levels(value, points)
        return sparkline(values, points, plain=self._plain)

    def _chosen(self, flows: list[Flow]) -> list[Flow]:
        wanted = self._view.filter.lower()
        chosen = [flow for flow in flows if wanted in (flow.key or DEFAULT_ROUTE).lower()]
        match self._view.sort:
            case "active":
                chosen.sort(key=lambda flow: (-flow.active, -flow.connections))
            case "rate":
                chosen.sort(key=lambda flow: -flow.connections)
            case "bytes":
                chosen.sort(key=lambda flow: -(flow.bytes_up + flow.bytes_down))
            case "failures":
                chosen.sort(key=lambda flow: -flow.failures)
        return chosen


def printable(text: str) -> str:
    """What clients send, as they spelled it, without what a terminal would act on."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _spelled(each: UpstreamState) -> str:
    """The state of an upstream in a word: the operator's where there is one."""
    return {"drain": "draining", "down": "disabled"}.get(each.mode, each.state)


_ORDER = ("up", "trying", "draining", "disabled", "out", "down")


def _worse(one: str | None, other: str) -> str:
    return other if one is None or _ORDER.index(other) > _ORDER.index(one) else one


def _coloured(state: str) -> Text:
    style = _WELL if state == "up" else _ASIDE if state in ("draining", "trying", "-") else _ILL
    return Text(state, style=style)


def _healthy(state: RouteState | None) -> Text:
    """How many of its upstreams are up."""
    if state is None or not state.upstreams:
        return Text("-", style="dim")
    up, there = state.count("up"), len(state.upstreams)
    return Text(f"{up}/{there}", style=_WELL if up == there else _ASIDE if up else _ILL)


def _flow_cells(flow: Flow) -> tuple[str, str, str, str, str]:
    return (
        short(flow.active),
        short(flow.connections),
        short(flow.failures),
        size(flow.bytes_up),
        size(flow.bytes_down),
    )
