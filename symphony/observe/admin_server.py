"""The HTTP server of the admin interface, as a part of a process that has an event loop and signals of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from symphony.observe.admin_app import AdminApp, Gather

KEEP_ALIVE_S = 30
END_WITHIN_S = 2


class HttpServer(uvicorn.Server):
    """Serves :class:`symphony.observe.admin_app.AdminApp`; ended by setting `should_exit`."""

    def __init__(self, gather: Gather) -> None:
        config = uvicorn.Config(
            AdminApp(gather).asgi,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=END_WITHIN_S,
        )
        super().__init__(config)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signals alone: the supervisor is the one to decide."""
        yield
