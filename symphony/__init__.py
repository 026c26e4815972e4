"""Symphony: a TLS-terminating, SNI-routing proxy run as a supervised tree of processes.

What a program uses is here; it is loaded when it is first named, so that the proxy's own processes carry none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from symphony.api.actor_watch import ActorChanged
    from symphony.api.blocked import BlockedReport
    from symphony.api.errors import (
        NotOurs,
        NotRunning,
        ReloadFailed,
        RouteRefused,
        StartFailed,
        UnknownConnection,
    )
    from symphony.api.events import SubscriberTooSlow
    from symphony.api.proxy import SymphonyProxy
    from symphony.api.resolution import ResolveRoute
    from symphony.api.status import Status
    from symphony.config.model import (
        AccessLog,
        Admin,
        Certificate,
        Config,
        HealthCheck,
        Listener,
        MutualTls,
        PenaltyBox,
        Protection,
        RateLimit,
        Route,
        SustainedLimit,
        TcpUpstream,
        UdsUpstream,
    )
    from symphony.config.problem import ConfigError, Problem
    from symphony.messages.events import Blocked, Released, Suspended
    from symphony.observe.telemetry import Telemetry
    from symphony.version import __version__

_HOMES = {
    "symphony.api.actor_watch": ("ActorChanged",),
    "symphony.api.blocked": ("BlockedReport",),
    "symphony.api.errors": (
        "NotOurs",
        "NotRunning",
        "ReloadFailed",
        "RouteRefused",
        "StartFailed",
        "UnknownConnection",
    ),
    "symphony.api.events": ("SubscriberTooSlow",),
    "symphony.api.proxy": ("SymphonyProxy",),
    "symphony.api.resolution": ("ResolveRoute",),
    "symphony.api.status": ("Status",),
    "symphony.config.model": (
        "AccessLog",
        "Admin",
        "Certificate",
        "Config",
        "HealthCheck",
        "Listener",
        "MutualTls",
        "PenaltyBox",
        "Protection",
        "RateLimit",
        "Route",
        "SustainedLimit",
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
    "BlockedReport",
    "Certificate",
    "Config",
    "ConfigError",
    "HealthCheck",
    "Listener",
    "MutualTls",
    "NotOurs",
    "NotRunning",
    "PenaltyBox",
    "Problem",
    "Protection",
    "RateLimit",
    "Released",
    "ReloadFailed",
    "ResolveRoute",
    "Route",
    "RouteRefused",
    "StartFailed",
    "Status",
    "SubscriberTooSlow",
    "Suspended",
    "SustainedLimit",
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
