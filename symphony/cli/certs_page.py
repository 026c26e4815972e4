"""``symphony certs`` for people and for programs."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from symphony.cli.status_page import PLAIN_WIDTH
from symphony.cli.wording import route_shown
from symphony.routing.certificates import ServedCertificate

_SOON_DAYS = 14
_SHOWN = 4
_DAY_S = 86400


def as_entry(certificate: ServedCertificate, now: float) -> dict[str, Any]:
    """One element of the JSON array; times are in RFC 3339, `days_left` is negative once it has expired."""
    facts = certificate.facts
    return {
        "names": facts.names,
        "issuer": facts.issuer,
        "key_type": facts.key_type,
        "not_before": _time(facts.not_before),
        "not_after": _time(facts.not_after),
        "days_left": days_left(facts.not_after, now),
        "routes": certificate.routes,
        "fingerprint": facts.fingerprint,
    }


def print_certificates(certificates: Iterable[ServedCertificate], now: float) -> None:
    """Print them as a table, without colour and lines where the output is no terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("names", "issuer", "key"):
        table.add_column(name, overflow="fold")
    table.add_column("days left", justify="right")
    table.add_column("routes", overflow="fold")
    for certificate in certificates:
        facts = certificate.facts
        left = days_left(facts.not_after, now)
        colour = "red" if left < 0 else "yellow" if left < _SOON_DAYS else "green"
        table.add_row(
            escape(_some(facts.names)),
            escape(facts.issuer),
            facts.key_type,
            f"[{colour}]{left if left >= 0 else 'expired'}[/]",
            escape(_some(map(route_shown, certificate.routes))),
        )
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(table)


def days_left(not_after: float, now: float) -> int:
    """Whole days until a certificate expires; below zero when it has."""
    return math.floor((not_after - now) / _DAY_S)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
