"""The admin actor: serves metrics and health over HTTP, on a Unix socket and, where asked, on a port.

It only reads. When it fails nothing else notices, and the totals it tells are kept by others.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from actors.runtime import Actor, Birth, CannotRun, run_actor
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.envelope import Refused
from symphony.mailbox.server import MailboxServer, Sender
from symphony.mailbox.socket_file import SocketFile
from symphony.messages.admin import AdminDescription, AdminReply, AdminRequest
from symphony.observe.telemetry import Telemetry

NAME = "admin"
_BACKLOG = 128

if TYPE_CHECKING:
    from symphony.observe.admin_server import HttpServer

log = structlog.get_logger("admin")


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """`socket_path` is where the Unix socket is to be; `host` and `port` are "" and 0 for none."""

    runtime_dir: str
    gather: Callable[[], Awaitable[Telemetry]]
    socket_path: str
    host: str = ""
    port: int = 0


class Admin(Actor):
    """Answers DescribeAdmin; everything else over HTTP."""

    def __init__(self, settings: AdminSettings, name: str) -> None:
        self._settings = settings
        self._sockets: list[socket.socket] = []
        self._socket_file: SocketFile | None = None
        self._addresses: list[str] = []
        self._server: HttpServer | None = None
        self._serving: asyncio.Task[None] | None = None
        self.mailbox = MailboxServer(mailbox_path(settings.runtime_dir, name), AdminRequest, self._answer)

    def prepare(self) -> None:
        """Bind."""
        settings = self._settings
        try:
            self._bind_unix(settings.socket_path)
            if settings.port or settings.host:
                self._bind_tcp(settings.host or "127.0.0.1", settings.port)
        except OSError as error:
            for sock in self._sockets:
                sock.close()
            raise CannotRun(f"the admin interface cannot be bound: {error}") from error
        # Here and not above: no other process is to hold a web server that is not its own. And not later: another user
        # may not be able to read it.
        from symphony.observe.admin_server import HttpServer

        self._server = HttpServer(settings.gather)

    async def start(self) -> None:
        """Serve."""
        assert self._server is not None, "it is prepared first"
        self._serving = asyncio.create_task(self._server.serve(self._sockets), name="admin interface")
        log.info("admin_serving", addresses=self._addresses)

    def _bind_unix(self, path: str) -> None:
        if os.path.lexists(path) and not os.path.isfile(path):
            os.unlink(path)  # what an earlier life left; a regular file is somebody else's
        sock = socket.socket(socket.AF_UNIX)
        self._sockets.append(sock)
        sock.bind(path)
        os.chmod(path, 0o600)
        self._socket_file = SocketFile(path)
        sock.listen(_BACKLOG)
        self._addresses.append(f"unix:{path}")

    def _bind_tcp(self, host: str, port: int) -> None:
        sock = socket.create_server((host, port), family=_family(host), backlog=_BACKLOG)
        self._sockets.append(sock)
        bound = sock.getsockname()
        self._addresses.append(f"{bound[0]}:{bound[1]}")

    async def stop(self, grace: float) -> None:
        """Let requests under way end."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait([self._serving], timeout=max(0.0, grace - 0.5))
        if self._socket_file is not None:
            self._socket_file.unlink()

    def _answer(self, message: AdminRequest, sender: Sender) -> AdminReply:
        if not self._addresses:
            return Refused("not serving yet")
        return AdminDescription(tuple(self._addresses))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def run_admin(birth: Birth, settings: AdminSettings) -> None:
    """Be the admin actor's process."""
    run_actor(birth, lambda: Admin(settings, birth.name))
