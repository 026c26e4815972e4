"""Which TLS policy each route has on each listener."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from symphony.config.findings import Findings
from symphony.config.problem import Problem
from symphony.config.route_names import Where
from symphony.config.snapshot import ListenerEntry, RouteEntry, TlsPolicy

ListenerDefault = tuple[str, str] | None
"""The digests of a listener's default identity and client authority, "" for none; None for a listener without TLS."""

_NO_POLICY = -1


class RoutePolicies:
    """Gives routes their policies, and keeps each distinct one once.

    `defaults` has an entry for each of `listeners`. Routes that have no certificate anywhere are found only when the
    listeners are in order: one at fault may be the one with the certificate.
    """

    def __init__(
        self, listeners: Sequence[ListenerEntry], defaults: Sequence[ListenerDefault], findings: Findings
    ) -> None:
        self._listeners = listeners
        self._defaults = defaults
        self._findings = findings
        self._listeners_in_order = findings.listeners_in_order()
        self._policies: dict[TlsPolicy, int] = {}
        self._columns: dict[tuple[TlsPolicy, bool, Where], tuple[int, ...]] = {}

    @property
    def policies(self) -> tuple[TlsPolicy, ...]:
        """All that routes were given so far: what the numbers in their entries stand for."""
        return tuple(self._policies)

    def attach(self, index: int, route: RouteEntry, own: TlsPolicy) -> RouteEntry | None:
        """Return `route` with its policy on each TLS listener that has it.

        None, and an error noted, when it would be served with a certificate on no listener. `index` is its number in
        the file; `own` what it says itself about TLS, "" for what it leaves to the listener.
        """
        suspended = route.suspend_timeout_ms > 0
        if not route.terminate_tls and not suspended:
            return route
        key = own, suspended, route.listeners
        column = self._columns.get(key)
        if column is None:
            column = self._columns[key] = self._column(*key)
        if self._listeners_in_order and _NO_POLICY in column:
            self._report_uncovered(index, column, route.listeners)
            if index in self._findings.broken:
                return None
        return msgspec.structs.replace(route, policies=column)

    def _column(self, own: TlsPolicy, suspended: bool, where: Where) -> tuple[int, ...]:
        return tuple(
            _NO_POLICY
            if default is None or (where and listener.id not in where)
            else self._number(own, *default, suspended)
            for listener, default in zip(self._listeners, self._defaults, strict=True)
        )

    def _number(self, own: TlsPolicy, identity: str, authority: str, suspended: bool) -> int:
        policy = TlsPolicy(own.identity or identity, own.client_authority or authority, own.http2)
        if not policy.identity and not suspended:
            return _NO_POLICY
        return self._policies.setdefault(policy, len(self._policies))

    def _report_uncovered(self, index: int, column: tuple[int, ...], where: Where) -> None:
        place = f"routes[{index}].cert"
        without = [
            listener.id
            for listener, policy in zip(self._listeners, column, strict=True)
            if policy == _NO_POLICY and listener.mode == "tls" and (not where or listener.id in where)
        ]
        if not without:
            return
        if all(policy == _NO_POLICY for policy in column):
            whose = "no listener of the route" if where else "no listener"
            text = (
                f"is missing, and {whose} has a default_cert: expected one of them, or terminate_tls = false"
            )
            self._findings.add([Problem(place, text)])
            return
        text = f"is missing, and so is the default_cert of {', '.join(without)}: the route will not be served there"
        self._findings.warnings.add(place, text)
