"""One frame of the dashboard: sections of lines, cut to the height and width of the screen.

Every section says how many lines it would like. When there are too few, each keeps its heading and a line, as far as
they go, and the rest is given in turn; what is left out is told in the heading.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from symphony.dashboard.around import Around
from symphony.dashboard.history import History
from symphony.dashboard.numbers import milliseconds, short, size, sparkline
from symphony.dashboard.section import Section, is_colourless, share_out
from symphony.dashboard.sections import Sections
from symphony.dashboard.traffic import Traffic
from symphony.dashboard.view import Page, View

HELP = """\
q, Ctrl-C   quit
p, space    pause
s           sort routes and upstreams by name, active, rate, bytes, failures
/           filter routes and upstreams by a part of their name
up, down    choose a route, page up and page down ten further, home and end the first and the last
enter       look into it
b           blocked sources       w       connections that wait (held)
e           events                f       why connections ended early
escape      back                  ?       this page

p50, p99    of the last minute: a route's handshakes, connecting to an upstream
healthy     how many of a route's upstreams get new connections"""

_WIDE = 110


class Frame:
    """A renderable that fills the screen it is printed on. `note` stands at the end, as what is wrong at the moment.

    On `paper` there are no keys to press, and nothing to fill: it has the lines that it needs, and no more than fit.
    """

    def __init__(
        self,
        history: History,
        view: View,
        events: Sequence[str],
        note: str = "",
        around: Around | None = None,
        *,
        paper: bool = False,
    ) -> None:
        self._history = history
        self._paper = paper
        self._around = around or Around()
        self._view = view
        self._events = events
        self._note = note

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # A screen tells its height to the console and not to what is drawn on it.
        width, height = options.max_width, options.height or options.size.height
        head = self._head(width, _is_plain(console))
        foot = [] if self._paper else [self._foot()]
        lines: list[list[Segment]] = []
        room = height - len(head) - len(foot)
        for text in head:
            lines += console.render_lines(text, options.update(width=width, height=1), pad=False)[:1]
        lines += self._body(console, options, width, room)[:room]
        if not self._paper:
            lines += [[] for _ in range(height - len(foot) - len(lines))]
        for text in foot:
            lines += console.render_lines(text, options.update(width=width, height=1), pad=False)[:1]
        for at, line in enumerate(lines[:height]):
            if at:
                yield Segment.line()
            yield from line

    def _body(self, console: Console, options: ConsoleOptions, width: int, room: int) -> list[list[Segment]]:
        lines: list[list[Segment]] = []

        def draw(renderable: Table | Text, height: int) -> None:
            drawn = console.render_lines(renderable, options.update(width=width, height=None), pad=False)
            lines.extend(drawn[:height])

        def draw_all(sections: list[Section]) -> None:
            wanted = [section.height for section in sections]
            apart = sum(wanted) + len(wanted) <= room
            for section, share in zip(sections, share_out(wanted, room), strict=True):
                if apart and (lines or self._paper):
                    lines.append([])
                if share:
                    draw(section.render(share, width), share)

        now = self._history.now
        page = self._view.page
        if page is Page.HELP:
            draw(Text(HELP), room)
        elif page is Page.EVENTS:
            draw(Text("\n".join(self._events[-room:]) or "no events yet", no_wrap=True), room)
        elif now is None:
            draw(Text("waiting for the instance ...", style="dim"), room)
        else:
            traffic = Traffic(
                self._history,
                now,
                self._view,
                wide=width >= _WIDE,
                plain=_is_plain(console),
                marked=is_colourless(console),
            )
            sections = Sections(self._history, now, self._around, traffic)
            match page:
                case Page.ROUTE:
                    draw_all(traffic.route())
                case Page.BLOCKED:
                    draw_all([sections.blocked()])
                case Page.HELD:
                    draw_all([sections.held()])
                case Page.FAILURES:
                    draw_all([sections.failures()])
                case _:
                    draw_all(sections.overview(self._events))
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
        bars = max(10, min(60, width - 57))

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

    def _foot(self) -> Text:
        view = self._view
        if view.typing:
            return Text(f"filter: {view.filter}_", style="bold")
        text = Text("? help  q quit  p pause  s sort  / filter  enter route  b blocked  w held", style="dim")
        if view.filter:
            text.append(f"  filter: {view.filter}", style="not dim")
        if self._note:
            text = Text(self._note, style="bold red")
        return text


def _is_plain(console: Console) -> bool:
    """Whether it has ASCII only."""
    return console.encoding.lower().replace("-", "") not in ("utf8", "utf16", "utf32")


def _duration(seconds: float) -> str:
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours}:{minutes:02}:{whole % 60:02}"
