"""Symphony: a TLS-terminating, SNI-routing proxy run as a supervised tree of processes.

What a program uses is here; it is loaded when it is first named, so that the proxy's own processes carry none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from symphony.api.actor_watch import ActorChanged
    from symphony.api.events import SubscriberTooSlow
    from symphony.api.hosted import StartFailed
    from symphony.api.proxy import (
        NotOurs,
        NotRunning,
        ReloadFailed,
        ResolveRoute,
        SymphonyProxy,
        UnknownConnection,
    )
    from symphony.config.model import (
        AccessLog,
        Admin,
        Certificate,
        Config,
        Listener,
        MutualTls,
        Protection,
        Route,
        TcpUpstream,
        UdsUpstream,
    )
    from symphony.config.problem import ConfigError, Problem
    from symphony.messages.events import Blocked, Released, Suspended
    from symphony.observe.telemetry import Telemetry
    from symphony.version import __version__

_HOMES = {
    "symphony.api.actor_watch": ("ActorChanged",),
    "symphony.api.events": ("SubscriberTooSlow",),
    "symphony.api.hosted": ("StartFailed",),
    "symphony.api.proxy": (
        "NotOurs",
        "NotRunning",
        "ReloadFailed",
        "ResolveRoute",
        "SymphonyProxy",
        "UnknownConnection",
    ),
    "symphony.config.model": (
        "AccessLog",
        "Admin",
        "Certificate",
        "Config",
        "Listener",
        "MutualTls",
        "Protection",
        "Route",
        "TcpUpstream",
        "UdsUpstream",
    ),
    "symphony.config.problem": ("ConfigError", "Problem"),
    "symphony.messages.events": ("Blocked", "Released", "Suspended"),
    "symphony.observe.telemetry": ("Telemetry",),
    "symphony.version": ("__version__",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AccessLog",
    "ActorChanged",
    "Admin",
    "Blocked",
    "Certificate",
    "Config",
    "ConfigError",
    "Listener",
    "MutualTls",
    "NotOurs",
    "NotRunning",
    "Problem",
    "Protection",
    "Released",
    "ReloadFailed",
    "ResolveRoute",
    "Route",
    "StartFailed",
    "SubscriberTooSlow",
    "Suspended",
    "SymphonyProxy",
    "TcpUpstream",
    "Telemetry",
    "UdsUpstream",
    "UnknownConnection",
    "__version__",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
