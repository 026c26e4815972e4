"""What becomes of a running instance's actors, told as events: by asking its supervisor again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from supervisor.messages import DescribeTree, TreeDescription, TreeReply
from symphony.api.asking import ask_briefly
from symphony.api.names import SUPERVISOR

ASK_EVERY_S = 0.5


class ActorChanged(Struct, frozen=True):
    """An actor is in another state than before, or was started again; `last_exit` is how it ended the last time."""

    name: str
    kind: str
    state: str
    pid: int
    restarts: int
    last_exit: str


class ActorWatch:
    """Calls `tell` with every change that it finds."""

    def __init__(self, runtime_dir: str, tell: Callable[[Any], None]) -> None:
        self._runtime_dir = runtime_dir
        self._tell = tell
        self._known: dict[str, ActorChanged] | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            tree = await ask_briefly(self._runtime_dir, SUPERVISOR, DescribeTree(), TreeReply)
            if isinstance(tree, TreeDescription):
                self.compare(tree)
            await asyncio.sleep(ASK_EVERY_S)

    def compare(self, tree: TreeDescription) -> None:
        """Tell what is other than in the tree before; the first one is what there is."""
        now = {
            child.name: ActorChanged(
                child.name, child.kind, str(child.state), child.pid, child.restarts, child.last_exit
            )
            for child in tree.children
        }
        known, self._known = self._known, now
        if known is None:
            return
        for name, actor in now.items():
            if known.get(name) != actor:
                self._tell(actor)
        for name, actor in known.items():
            if name not in now:
                self._tell(ActorChanged(name, actor.kind, "gone", 0, actor.restarts, actor.last_exit))
