"""Tells the service manager how the service is doing, in systemd's protocol (sd_notify(3)).

One datagram of ``KEY=value`` lines to the socket that ``$NOTIFY_SOCKET`` names. Whoever started the process without
that variable hears nothing, and everything here does nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from structlog import get_logger

SOCKET_VARIABLE = "NOTIFY_SOCKET"
_SEND_WITHIN_S = 0.25

log = get_logger("notify")


class Notifier:
    """Sends notifications to the socket at `address`, a path or ``@name`` (abstract); to nobody when empty."""

    def __init__(self, address: str) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._complained = False

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return bool(self._address)

    def send(self, **fields: str | int) -> bool:
        """Send the fields as one notification; return whether it was sent. A failure is logged, once, and no error.

        A new connection each time: the service manager may have been started anew since the last one.
        """
        if not self._address:
            return False
        text = "\n".join(f"{key}={_one_line(value)}" for key, value in fields.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                # The supervisor must not wait for long: its children would seem to be silent.
                sock.settimeout(_SEND_WITHIN_S)
                sock.connect(self._address)
                sock.sendall(text.encode())
        except (OSError, ValueError) as error:
            if not self._complained:
                self._complained = True
                log.warning("service_manager_not_told", error=str(error))
            return False
        self._complained = False
        return True


def notifier(environment: Mapping[str, str] | None = None) -> Notifier:
    """The notifier for this process."""
    found = (os.environ if environment is None else environment).get(SOCKET_VARIABLE, "")
    return Notifier(found if found.startswith(("/", "@")) else "")


def watchdog_interval_s(environment: Mapping[str, str] | None = None, pid: int | None = None) -> float:
    """How often this process is to send ``WATCHDOG=1``: half of what the service manager allows; 0.0 for never."""
    values = os.environ if environment is None else environment
    allowed = values.get("WATCHDOG_USEC", "")
    meant = values.get("WATCHDOG_PID", "")
    if not allowed.isdecimal() or (meant and meant != str(pid or os.getpid())):
        return 0.0
    return int(allowed) / 1e6 / 2


def monotonic_usec() -> int:
    """CLOCK_MONOTONIC in microseconds, as ``RELOADING=1`` must be sent with."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def _one_line(value: str | int) -> str:
    """A line break would begin another field."""
    return " ".join(str(value).split("\n"))
