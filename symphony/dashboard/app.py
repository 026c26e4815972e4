"""The dashboard's loop: asks the instance, reads keys and events, draws. It changes nothing in the instance."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from datetime import datetime

from rich.console import Console
from rich.live import Live

from symphony.api.blocked import BlockedEntry, list_exceeding
from symphony.api.events import EventFeed, SubscriberTooSlow
from symphony.api.held import list_held
from symphony.api.telemetry import TelemetrySource
from symphony.dashboard.around import Around
from symphony.dashboard.changes import changes
from symphony.dashboard.frame import Frame
from symphony.dashboard.history import History
from symphony.dashboard.keys import keys_at_once, read_keys
from symphony.dashboard.sections import printable
from symphony.dashboard.view import View
from symphony.mailbox.address import RuntimeDirError
from symphony.messages.events import Blocked, Event, Released, Suspended
from symphony.observe.telemetry import Telemetry

EVENTS_KEPT = 500
LOOK_AROUND_EVERY_S = 2.0
BLOCKED_SHOWN = 200
_LOOK_AGAIN_S = 1.0


class Dashboard:
    """Shows the instance in `runtime_dir`, asking it every `interval_s` seconds, until the person ends it."""

    def __init__(self, runtime_dir: str, console: Console, interval_s: float = 1.0) -> None:
        self._runtime_dir = runtime_dir
        self._console = console
        self._interval_s = interval_s
        self._source = TelemetrySource(runtime_dir)
        self._history = History()
        self._events: deque[str] = deque(maxlen=EVENTS_KEPT)
        self._view = View()
        self._note = ""
        self._around = Around()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Draw until ``q`` or Ctrl-C. The terminal is restored whatever happens."""
        loop = asyncio.get_running_loop()
        descriptor = sys.stdin.fileno()
        tasks = [
            loop.create_task(self._ask(), name="ask"),
            loop.create_task(self._listen(), name="listen"),
            loop.create_task(self._look_around(), name="look around"),
        ]
        loop.add_signal_handler(signal.SIGINT, self._press, "ctrl-c")
        loop.add_signal_handler(signal.SIGTERM, self._press, "ctrl-c")
        loop.add_signal_handler(signal.SIGWINCH, self._changed.set)
        try:
            with keys_at_once(descriptor), self._live() as live:
                watch_keys(loop, descriptor, self._press)
                while not self._view.ended:
                    live.update(self._frame(), refresh=True)
                    await self._changed.wait()
                    self._changed.clear()
                    for task in tasks:
                        if task.done():
                            task.result()
        finally:
            loop.remove_reader(descriptor)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _live(self) -> Live:
        return Live(console=self._console, screen=True, auto_refresh=False, vertical_overflow="crop")

    def _frame(self) -> Frame:
        return Frame(self._history, self._view, tuple(self._events), self._note, self._around)

    def _press(self, key: str) -> None:
        self._view.press(key)
        self._changed.set()

    async def _ask(self) -> None:
        while True:
            if not self._view.paused:
                telemetry = await self._source.gather()
                if telemetry.pid or telemetry.applied:
                    self._take(telemetry)
                    self._note = f"silent: {', '.join(telemetry.silent)}" if telemetry.silent else ""
                else:
                    # What it told is of no use to whatever runs here next.
                    self._source = TelemetrySource(self._runtime_dir)
                    self._note = "the instance does not answer; waiting for it"
                self._changed.set()
            await asyncio.sleep(self._interval_s)

    def _take(self, telemetry: Telemetry) -> None:
        before = self._history.now
        if before is not None:
            for change in changes(before, telemetry):
                self._tell(change)
        self._history.add(telemetry)

    async def _look_around(self) -> None:
        """Ask who is refused and what is held: not as often, since it takes the actors longer to tell."""
        while True:
            now = self._history.now
            if now is not None and not self._view.paused:
                self._around = await look_around(self._runtime_dir, now)
                self._changed.set()
            await asyncio.sleep(
                max(self._interval_s, LOOK_AROUND_EVERY_S) if now is not None else self._interval_s
            )

    async def _listen(self) -> None:
        """Follow the events, of one instance after the other."""
        while True:
            try:
                async with EventFeed(self._runtime_dir) as feed:
                    async for event in feed.subscribe():
                        self._tell(render_event(event))
            except (SubscriberTooSlow, RuntimeDirError, OSError) as error:
                self._tell(f"events: {error}")
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _tell(self, text: str) -> None:
        self._events.append(f"{datetime.now():%H:%M:%S} {text}")
        if not self._view.paused:
            self._changed.set()


async def look_around(runtime_dir: str, now: Telemetry) -> Around:
    """Ask for what is not counted, of those who have something to tell."""
    blocked: tuple[BlockedEntry, ...] = ()
    more = 0
    if now.limiter is not None and now.limiter.sources:
        blocked, more = await list_exceeding(runtime_dir, BLOCKED_SHOWN)
    held = (await list_held(runtime_dir)).held if now.held else ()
    return Around(blocked, more, held)


def watch_keys(loop: asyncio.AbstractEventLoop, descriptor: int, press: Callable[[str], None]) -> None:
    """Call `press` with every key from now on; a terminal that is gone ends the dashboard."""

    def readable() -> None:
        data = os.read(descriptor, 1024)
        if not data:
            loop.remove_reader(descriptor)
            press("ctrl-c")
        for key in read_keys(data):
            press(key)

    try:
        loop.add_reader(descriptor, readable)
    except PermissionError:  # a regular file or /dev/null: nobody presses keys there
        pass


def render_event(event: Event) -> str:
    """One line. What clients send is shown as they spelled it, without what a terminal would act on."""
    match event:
        case Blocked(listener, ip, reason, sni):
            more = f" (and {event.left_out} more)" if event.left_out else ""
            return f"blocked {ip} on {listener}: {reason}{f' for {printable(sni)}' if sni else ''}{more}"
        case Suspended(id):
            return f"held {id}: {event.peer_ip} asks for {printable(event.sni) or 'no name'}"
        case Released(id, how):
            return f"released {id}: {how}"
