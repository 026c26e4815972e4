"""One frame of the dashboard: sections of lines, cut to the height and width of the screen.

Every section says how many lines it would like. When there are too few, each keeps its heading and a line, as far as
they go, and the rest is given in turn; what is left out is told in the heading.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from symphony.dashboard.history import Flow, History
from symphony.dashboard.numbers import milliseconds, short, size, sparkline
from symphony.dashboard.view import Page, View
from symphony.observe.exposition import DEFAULT_ROUTE
from symphony.observe.telemetry import Telemetry

HELP = """\
q, Ctrl-C   quit
p, space    pause
s           sort routes and upstreams by name, active, rate, bytes
/           filter routes and upstreams by a part of their name
up, down    choose a route        enter   look into it
e           events                escape  back
?           this page"""

_HEADING = "bold cyan"


class Section:
    """A heading with the columns' names, and rows under it. `numeric` columns stand to the right."""

    def __init__(
        self, columns: Sequence[str], rows: Sequence[Sequence[str | Text]], selected: int = -1
    ) -> None:
        self.columns = columns
        self.rows = rows
        self.selected = selected

    @property
    def height(self) -> int:
        """How many lines it would like."""
        return 1 + max(1, len(self.rows))

    def render(self, lines: int) -> Table:
        """The section in at most `lines` lines."""
        room = max(0, lines - 1)
        first = min(max(0, self.selected - room + 1), max(0, len(self.rows) - room))
        shown = self.rows[first : first + room]
        left_out = len(self.rows) - len(shown)
        heading = f"{self.columns[0]} (+{left_out})" if left_out else self.columns[0]
        table = Table(box=None, pad_edge=False, expand=True, header_style=_HEADING, padding=(0, 1, 0, 0))
        table.add_column(heading, no_wrap=True, overflow="ellipsis", ratio=1, min_width=12)
        for name in self.columns[1:]:
            table.add_column(name, justify="right", no_wrap=True, overflow="ellipsis")
        for at, row in enumerate(shown, start=first):
            table.add_row(*row, style=Style(reverse=True) if at == self.selected else None)
        if not shown and room:
            table.add_row(Text("none", style="dim"), *("" for _ in self.columns[1:]))
        return table


def share_out(wanted: Sequence[int], lines: int) -> list[int]:
    """Give each section as many of `lines` as it wants; when they do not suffice, two each and the rest in turn."""
    given = [0] * len(wanted)
    for least in (2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 1 << 20):
        for at, want in enumerate(wanted):
            more = min(want, least) - given[at]
            if more > 0 and lines > 0:
                granted = min(more, lines)
                given[at] += granted
                lines -= granted
    # A heading alone says nothing.
    return [0 if count == 1 else count for count in given]


class Frame:
    """A renderable that fills the screen it is printed on. `note` stands at the end, as what is wrong at the moment."""

    def __init__(self, history: History, view: View, events: Sequence[str], note: str = "") -> None:
        self._history = history
        self._view = view
        self._events = events
        self._note = note

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # A screen tells its height to the console and not to what is drawn on it.
        width, height = options.max_width, options.height or options.size.height
        plain = console.encoding.lower().replace("-", "") not in ("utf8", "utf16", "utf32")
        head = self._head(width, plain)
        foot = [self._foot()]
        lines: list[list[Segment]] = []
        room = height - len(head) - len(foot)
        for text in head:
            lines += console.render_lines(text, options.update(width=width, height=1), pad=False)[:1]
        lines += self._body(console, options, width, room)[:room]
        lines += [[] for _ in range(height - len(foot) - len(lines))]
        for text in foot:
            lines += console.render_lines(text, options.update(width=width, height=1), pad=False)[:1]
        for at, line in enumerate(lines[:height]):
            yield from line
            if at < height - 1:
                yield Segment.line()

    def _body(self, console: Console, options: ConsoleOptions, width: int, room: int) -> list[list[Segment]]:
        lines: list[list[Segment]] = []

        def draw(renderable: Table | Text, height: int) -> None:
            drawn = console.render_lines(renderable, options.update(width=width, height=None), pad=False)
            lines.extend(drawn[:height])

        now = self._history.now
        match self._view.page:
            case Page.HELP:
                draw(Text(HELP), room)
            case Page.EVENTS:
                draw(Text("\n".join(self._events[-room:]) or "no events yet", no_wrap=True), room)
            case _ if now is None:
                draw(Text("waiting for the instance ...", style="dim"), room)
            case Page.ROUTE:
                draw(self._route(now).render(room), room)
            case Page.OVERVIEW:
                sections = self._sections(now)
                for section, share in zip(
                    sections, share_out([section.height for section in sections], room), strict=True
                ):
                    if share:
                        draw(section.render(share), share)
        return lines

    def _head(self, width: int, plain: bool) -> list[Text]:
        history, now = self._history, self._history.now
        if now is None:
            return [Text("symphony", style="bold")]
        title = Text(f"symphony {now.version}", style="bold")
        title.append(
            f"  pid {now.pid or '-'}  up {_duration(now.uptime_s)}  configuration {now.config_version}",
            style="not bold",
        )
        if now.problems:
            title.append(f"  {now.problems} findings", style="yellow")
        if self._view.paused:
            title.append("  PAUSED", style="bold yellow")
        bars = max(10, min(60, width - 50))

        def line(name: str, figure: str, values: list[float], more: str) -> Text:
            text = Text(no_wrap=True)
            text.append(f"{name:<12}", style="bold")
            text.append(f"{figure:>9}  ")
            text.append(sparkline(values, bars, plain=plain), style="green")
            text.append(f"  {more}", style="dim")
            return text

        totals = now.totals
        accepted = history.rate(lambda state: state.totals.accepted)
        shaken = history.rate(lambda state: state.totals.handshakes)
        up = history.rate(lambda state: state.totals.bytes_up)
        down = history.rate(lambda state: state.totals.bytes_down)
        handshake = history.lately(lambda state: state.totals.handshake_time)
        connect = history.lately(lambda state: state.totals.connect_time)
        return [
            title,
            line(
                "connections",
                short(totals.active),
                history.levels(lambda state: state.totals.active, bars),
                f"held {now.held}, failed {short(sum(totals.errors.values()))}",
            ),
            line(
                "accepts/s",
                short(accepted),
                history.series(lambda state: state.totals.accepted, bars),
                f"connect p50 {milliseconds(connect.quantile(0.5))} p99 {milliseconds(connect.quantile(0.99))}",
            ),
            line(
                "handshakes/s",
                short(shaken),
                history.series(lambda state: state.totals.handshakes, bars),
                f"p50 {milliseconds(handshake.quantile(0.5))} p99 {milliseconds(handshake.quantile(0.99))}",
            ),
            line(
                "bytes/s",
                size(up + down),
                history.series(lambda state: state.totals.bytes_up + state.totals.bytes_down, bars),
                f"up {size(up)} down {size(down)}",
            ),
        ]

    def _sections(self, now: Telemetry) -> list[Section]:
        view = self._view
        routes = self._chosen(self._history.flows(lambda state: state.totals.routes))
        view.shown_routes = [flow.key for flow in routes]
        view.selected = min(view.selected, max(0, len(routes) - 1))
        failures = sorted(now.totals.errors.items(), key=lambda item: -item[1])
        return [
            self._actors(now),
            Section(
                ("listener", "active", "accepted", "blocked"),
                [
                    (
                        listener.address,
                        short(listener.active),
                        short(listener.accepted),
                        short(sum(listener.blocked.values())),
                    )
                    for listener in now.totals.listeners
                ],
            ),
            Section(
                (f"route by {view.sort}", "active", "conn/s", "fail/s", "up/s", "down/s"),
                [_flow_row(flow) for flow in routes],
                view.selected,
            ),
            Section(
                ("upstream", "active", "conn/s", "fail/s", "up/s", "down/s", "connect"),
                [
                    (
                        *_flow_row(flow),
                        milliseconds(flow.connect_ms / 1000 if flow.connect_ms is not None else None),
                    )
                    for flow in self._chosen(self._history.flows(lambda state: state.totals.upstreams))
                ],
            ),
            Section(("ended early by", "times"), [(reason, short(times)) for reason, times in failures]),
            Section(("event",), [(Text(event, no_wrap=True),) for event in reversed(self._events[-50:])]),
        ]

    def _actors(self, now: Telemetry) -> Section:
        rows = []
        for actor in now.actors:
            well = actor.state == "running" and actor.name not in now.silent
            state = actor.state if actor.name not in now.silent else "silent"
            cpu = self._history.cpu(actor.name)
            version = now.applied.get(actor.name)
            rows.append(
                (
                    actor.name,
                    Text(state, style="green" if well else "bold red"),
                    str(actor.pid or "-"),
                    "-" if cpu is None else f"{cpu * 100:.0f} %",
                    size(actor.rss_bytes),
                    str(actor.restarts),
                    str(actor.depth),
                    "-" if version is None else str(version),
                )
            )
        return Section(("actor", "state", "pid", "cpu", "memory", "restarts", "waiting", "config"), rows)

    def _route(self, now: Telemetry) -> Section:
        key = self._view.route
        found = [flow for flow in self._history.flows(lambda state: state.totals.routes) if flow.key == key]
        totals = now.totals.routes.get(key)
        if not found or totals is None:
            return Section((f"route {key or DEFAULT_ROUTE}", ""), [("is not in use", "")])
        [flow] = found

        def rates(field: str) -> str:
            values = self._history.series(
                lambda state: getattr(state.totals.routes[key], field) if key in state.totals.routes else 0,
                40,
            )
            return sparkline(values, 40)

        return Section(
            (f"route {key or DEFAULT_ROUTE}", "total", "a second", "of late"),
            [
                ("open connections", short(totals.active), "", ""),
                (
                    "connections",
                    short(totals.connections),
                    short(flow.connections),
                    rates("connections"),
                ),
                ("failures", short(totals.failures), short(flow.failures), rates("failures")),
                ("bytes up", size(totals.bytes_up), size(flow.bytes_up), rates("bytes_up")),
                ("bytes down", size(totals.bytes_down), size(flow.bytes_down), rates("bytes_down")),
            ],
        )

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
        return chosen

    def _foot(self) -> Text:
        view = self._view
        if view.typing:
            return Text(f"filter: {view.filter}_", style="bold")
        text = Text("? help  q quit  p pause  s sort  / filter  enter route  e events", style="dim")
        if view.filter:
            text.append(f"  filter: {view.filter}", style="not dim")
        if self._note:
            text = Text(self._note, style="bold red")
        return text


def _flow_row(flow: Flow) -> tuple[str, str, str, str, str, str]:
    return (
        flow.key or DEFAULT_ROUTE,
        short(flow.active),
        short(flow.connections),
        short(flow.failures),
        size(flow.bytes_up),
        size(flow.bytes_down),
    )


def _duration(seconds: float) -> str:
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours}:{minutes:02}:{whole % 60:02}"
