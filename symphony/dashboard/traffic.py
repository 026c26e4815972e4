"""The sections about routes and upstreams: who has how many connections, bytes and failures, and how long they take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct
from rich.text import Text

from symphony.config.server_name import DEFAULT_ROUTE
from symphony.dashboard.colours import ASIDE, ILL, WELL
from symphony.dashboard.history import Flow, History
from symphony.dashboard.numbers import milliseconds, short, size, sparkline
from symphony.dashboard.section import Row, Rows, Section
from symphony.dashboard.view import View
from symphony.observe.histogram import Histogram
from symphony.observe.record_totals import Totals
from symphony.observe.telemetry import RouteState, Telemetry, UpstreamState

_FIGURES = ("active", "conn/s", "fail/s", "up/s", "down/s", "p50", "p99")
_TREND = "of late"
_TREND_POINTS = 16
"""How many points of a sparkline a line has room for; only on wide screens."""
_LONG_TREND_POINTS = 40


class _Kind(Struct, frozen=True):
    """What there are figures of: its totals, and the histograms that p50 and p99 come from, both by name."""

    totals: Callable[[Telemetry], dict[str, Totals]]
    times: Callable[[Telemetry], dict[str, Histogram]]


_ROUTES = _Kind(lambda state: state.totals.routes, lambda state: state.totals.handshake_times)
_UPSTREAMS = _Kind(lambda state: state.totals.upstreams, lambda state: state.totals.connect_times)


class Traffic:
    """The sections of one frame. `wide`: there is room for sparklines in the lines; `plain`: for ASCII only.

    The selected route is `marked` by a character where there are no colours.
    """

    def __init__(
        self, history: History, now: Telemetry, view: View, *, wide: bool, plain: bool, marked: bool
    ) -> None:
        self._history = history
        self._now = now
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

    def routes(self) -> Section:
        """Every route, in the chosen order; fills in which are shown, for the selection."""
        view = self._view
        flows = self._chosen(_ROUTES, (state.route for state in self._now.route_states))
        view.shown_routes = [flow.key for flow in flows]
        view.selected = min(view.selected, max(0, len(flows) - 1))

        def row(at: int) -> Row:
            flow = flows[at]
            state = _healthy(self._states.get(flow.key))
            return self._row(_ROUTES, flow, flow.key or DEFAULT_ROUTE, state, trend=self._wide)

        columns = _columns(f"route by {view.sort}", "healthy", trend=self._wide)
        return Section(columns, Rows(len(flows), row), view.selected, marked=self._marked)

    def upstreams(self) -> Section:
        """Every upstream, in the chosen order."""
        flows = self._chosen(_UPSTREAMS, self._upstream_states)

        def row(at: int) -> Row:
            flow = flows[at]
            state = _coloured(self._upstream_states.get(flow.key, "-"))
            return self._row(_UPSTREAMS, flow, flow.key, state, trend=self._wide)

        columns = _columns("upstream", "state", trend=self._wide)
        return Section(columns, Rows(len(flows), row), texts=2)

    def route(self) -> list[Section]:
        """The route that is looked into, and its upstreams."""
        key = self._view.route
        state = self._states.get(key)
        if state is None and key not in self._now.totals.routes:
            return [Section((f"route {key or DEFAULT_ROUTE}",), [("is not configured any more",)])]
        return [self._route_figures(key), self._upstreams_of(state)]

    def _route_figures(self, key: str) -> Section:
        [flow] = [flow for flow in self._history.flows(_ROUTES.totals, [key]) if flow.key == key]
        totals = self._now.totals.routes.get(key)
        p50, p99 = self._quantiles(_ROUTES, key)

        def figure(name: str, field: str, render: Callable[[float], str] = short) -> Row:
            total = getattr(totals, field) if totals is not None else 0
            trend = self._trend(_ROUTES, key, field, _LONG_TREND_POINTS)
            return name, render(total), render(getattr(flow, field)), trend

        open_now = self._trend(_ROUTES, key, "active", _LONG_TREND_POINTS, rate=False)
        return Section(
            (f"route {key or DEFAULT_ROUTE}", "total", "a second", _TREND),
            [
                ("open connections", short(flow.active), "", open_now),
                figure("connections", "connections"),
                figure("ended early", "failures"),
                figure("bytes up", "bytes_up", size),
                figure("bytes down", "bytes_down", size),
                ("handshake, half within", p50, "", ""),
                ("handshake, 99 % within", p99, "", ""),
            ],
        )

    def _upstreams_of(self, state: RouteState | None) -> Section:
        upstreams = state.upstreams if state is not None else ()
        labels = [each.upstream for each in upstreams]
        flows = {flow.key: flow for flow in self._history.flows(_UPSTREAMS.totals, labels)}
        spelled = {each.upstream: _spelled(each) for each in upstreams}
        rows = [self._row(_UPSTREAMS, flows[label], label, _coloured(spelled[label])) for label in labels]
        return Section(_columns("its upstreams, over all routes", "state"), rows, texts=2)

    def _row(self, kind: _Kind, flow: Flow, name: str, state: Text, *, trend: bool = False) -> Row:
        """What stands under :func:`_columns`."""
        row = (
            name,
            state,
            short(flow.active),
            short(flow.connections),
            short(flow.failures),
            size(flow.bytes_up),
            size(flow.bytes_down),
            *self._quantiles(kind, flow.key),
        )
        if not trend:
            return row
        return *row, Text(self._trend(kind, flow.key, "connections", _TREND_POINTS), style=WELL)

    def _quantiles(self, kind: _Kind, key: str) -> tuple[str, str]:
        """The times of late of a route's handshakes, or of connecting to an upstream: p50 and p99."""
        found = self._history.lately(lambda state: kind.times(state).get(key, Histogram()))
        return milliseconds(found.quantile(0.5)), milliseconds(found.quantile(0.99))

    def _trend(self, kind: _Kind, key: str, field: str, points: int, *, rate: bool = True) -> str:
        def value(state: Telemetry) -> float:
            totals = kind.totals(state)
            return float(getattr(totals[key], field)) if key in totals else 0.0

        values = self._history.series(value, points) if rate else self._history.levels(value, points)
        return sparkline(values, points, plain=self._plain)

    def _chosen(self, kind: _Kind, keys: Iterable[str]) -> list[Flow]:
        """Those that pass the filter, in the chosen order; those of `keys` even if they were never used."""
        wanted = self._view.filter.lower()
        flows = self._history.flows(kind.totals, keys)
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


def _columns(name: str, state: str, *, trend: bool = False) -> Sequence[str]:
    return name, state, *_FIGURES, *((_TREND,) if trend else ())


def _spelled(each: UpstreamState) -> str:
    """The state of an upstream in a word: the operator's where there is one."""
    return {"drain": "draining", "down": "disabled"}.get(each.mode, each.state)


_ORDER = ("up", "trying", "draining", "disabled", "out", "down")


def _worse(one: str | None, other: str) -> str:
    return other if one is None or _ORDER.index(other) > _ORDER.index(one) else one


def _coloured(state: str) -> Text:
    style = WELL if state == "up" else ASIDE if state in ("draining", "trying", "-") else ILL
    return Text(state, style=style)


def _healthy(state: RouteState | None) -> Text:
    """How many of its upstreams are up."""
    if state is None or not state.upstreams:
        return Text("-", style="dim")
    up, there = state.count("up"), len(state.upstreams)
    return Text(f"{up}/{there}", style=WELL if up == there else ASIDE if up else ILL)
