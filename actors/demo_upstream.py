"""The demo's upstream: a small HTTP service on a Unix socket, for ``symphony run --demo``."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from msgspec import Struct

from actors.runtime import Actor, Birth, run_actor
from symphony.demo.service import DemoConnection
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.server import MailboxServer, Sender

NAME = "demo-upstream"


class DescribeDemo(Struct, frozen=True, array_like=True, tag=True):
    """Ask for :class:`DemoDescription`."""


class DemoDescription(Struct, frozen=True, array_like=True, tag=True):
    """How many HTTP requests were answered since the service started."""

    answered: int


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """`path` is the Unix socket that the service listens on."""

    runtime_dir: str
    path: str


class DemoUpstream(Actor):
    """Answers HTTP on its socket, and DescribeDemo in its mailbox."""

    def __init__(self, settings: DemoSettings, name: str) -> None:
        self._path = settings.path
        self._server: asyncio.Server | None = None
        self.mailbox = MailboxServer(mailbox_path(settings.runtime_dir, name), DescribeDemo, self._answer)

    async def start(self) -> None:
        """Serve; the event loop removes the socket of an earlier life."""
        self._server = await asyncio.get_running_loop().create_unix_server(DemoConnection, self._path)

    async def stop(self, grace: float) -> None:
        """Take no new connections; those that are open end with the process."""
        if self._server is not None:
            self._server.close()

    def _answer(self, message: DescribeDemo, sender: Sender) -> DemoDescription:
        return DemoDescription(DemoConnection.answered)


def run_demo_upstream(birth: Birth, settings: DemoSettings) -> None:
    """Be the demo upstream's process."""
    run_actor(birth, lambda: DemoUpstream(settings, birth.name))
