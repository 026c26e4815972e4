"""From a configuration file to a snapshot: everything checked, every file read.

Findings are of two kinds. What is wrong inside single routes leaves those routes out of the snapshot and touches
no other; what is wrong anywhere else leaves no snapshot at all. A start refuses both
(:meth:`symphony.config.loaded.Loaded.require`); a reload lives with the first kind (:mod:`symphony.config.reload`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from symphony.config.check import (
    check_addresses,
    check_host,
    check_mode,
    check_route,
    check_upstream,
)
from symphony.config.check_identity import check_client_header, check_trusted_proxies
from symphony.config.check_instance import check_instance
from symphony.config.check_upstreams import UpstreamsSeen
from symphony.config.credentials import Credentials
from symphony.config.findings import Findings
from symphony.config.loaded import Loaded
from symphony.config.model import Config, Listener, Route, Upstream
from symphony.config.networks import NetworkLists
from symphony.config.numbering import number_snapshot
from symphony.config.original import is_original, translate
from symphony.config.problem import ConfigError, Problem, Severity
from symphony.config.protection import resolve_protection
from symphony.config.route_names import ListenerIds, Where, find_repeated, read_listeners, read_names
from symphony.config.route_policies import ListenerDefault, RoutePolicies
from symphony.config.schema import convert, convert_or_none
from symphony.config.snapshot import ListenerEntry, RouteEntry, Snapshot, TlsPolicy
from symphony.config.source import Document, read_document
from symphony.watch.files import Sightings

HTTPS_PORT = 443
"""Where redirects of a plain HTTP listener lead when the file does not say."""


def load(path: str, *, overrides: Mapping[str, object] | None = None, now: datetime | None = None) -> Loaded:
    """Read, check and resolve the file at `path`. All findings are returned, none is raised.

    `overrides` are top-level keys that stand above the file's, such as a command's ``--workers``. `now` (aware;
    default: the clock) is what certificates are compared to. The snapshot's version is 1.
    """
    sightings = Sightings()
    try:
        document = read_document(path, sightings)
    except ConfigError as error:
        return Loaded(path, None, None, (), (), tuple(error.problems), sightings.files)
    content = document.content
    foreign: list[Problem] = []
    if is_original(content):
        content, foreign = translate(content)
    content = {**content, **(overrides or {})}
    loaded = _Resolver(document, content, now or datetime.now(UTC), sightings).run()
    if foreign:
        usable = all(problem.severity is Severity.WARNING for problem in foreign)
        loaded = msgspec.structs.replace(
            loaded,
            config=loaded.config if usable else None,
            snapshot=loaded.snapshot if usable else None,
            problems=(*foreign, *loaded.problems),
        )
    watch = content.get("watch", True)
    return msgspec.structs.replace(
        loaded, seen=sightings.files, watch=watch if isinstance(watch, bool) else None
    )


class _Resolver:
    """One load. Each step adds to `_findings`, and goes on with what is in order."""

    def __init__(
        self, document: Document, content: dict[str, Any], now: datetime, sightings: Sightings
    ) -> None:
        self._document = document
        self._content = content
        self._findings = Findings()
        self._credentials = Credentials(document.directory, now, self._findings.warnings, sightings)
        self._networks = NetworkLists(document.directory, sightings)
        self._upstreams: dict[Upstream, Upstream] = {}
        self._upstreams_seen = UpstreamsSeen()
        self._listener_ids = ListenerIds()

    def run(self) -> Loaded:
        findings = self._findings
        raw_routes = self._content.get("routes", [])
        config, listeners, routes = self._convert(raw_routes)
        entries, defaults = self._resolve_listeners(listeners)
        names = read_names(raw_routes, findings)
        where = read_listeners(raw_routes, self._listener_ids)
        find_repeated(names, where, findings)
        problems: list[Problem] = []
        check_instance(self._content, problems, findings.warnings)
        findings.add(problems)
        certain = findings.listeners_in_order()
        resolved = [
            (
                index,
                *self._resolve_route(index, route, names.get(index, ""), where.get(index, ()), certain),
            )
            for index, route in routes
        ]
        policies = RoutePolicies(entries, defaults, findings)
        route_entries: list[RouteEntry] = []
        own_policies: list[TlsPolicy] = []
        for index, route, own in resolved:
            entry = None if index in findings.broken else policies.attach(index, route, own)
            if entry is not None:
                route_entries.append(entry)
                own_policies.append(own)
        self._warn_of_plain_only(where, entries)
        broken = tuple(
            (names[index], where.get(index, ())) if index in names else None
            for index in sorted(findings.broken)
        )
        found = findings.in_document_order()
        if config is None or not findings.only_in_routes():
            return Loaded(self._document.file, None, None, (), broken, found)
        snapshot = self._snapshot(config, entries, route_entries, policies.policies)
        healthy = tuple(route for index, route in routes if index not in findings.broken)
        config = msgspec.structs.replace(config, routes=healthy)
        return Loaded(self._document.file, config, snapshot, tuple(own_policies), broken, found)

    def _convert(
        self, raw_routes: object
    ) -> tuple[Config | None, list[tuple[int, Listener]], list[tuple[int, Route]]]:
        """Convert the document, or, where it is at fault, whatever of it is in order."""
        config, problems = convert(self._content, Config)
        if config is not None:
            return config, list(enumerate(config.listeners)), list(enumerate(config.routes))
        self._findings.add(problems)
        frame = convert_or_none({**self._content, "routes": []}, Config)
        if not isinstance(raw_routes, list):
            frame = None
        listeners = _elements(self._content.get("listeners"), Listener)
        return frame, listeners, _elements(raw_routes, Route)

    def _resolve_listeners(
        self, listeners: list[tuple[int, Listener]]
    ) -> tuple[list[ListenerEntry], list[ListenerDefault]]:
        """Return the entries, and for each what a route without a certificate of its own has there."""
        problems: list[Problem] = []
        entries: list[ListenerEntry] = []
        defaults: list[ListenerDefault] = []
        addresses: list[tuple[str, str, int]] = []
        for index, listener in listeners:
            place = f"listeners[{index}]"
            host = check_host(listener, place, problems)
            check_trusted_proxies(listener, place, problems, self._findings.warnings)
            check_mode(listener, place, problems)
            addresses.append((place, host, listener.port))
            entries.append(
                ListenerEntry(
                    id=self._listener_ids.add(listener.host, host, listener.port),
                    host=host,
                    port=listener.port,
                    max_connections=listener.max_connections,
                    idle_timeout_ms=listener.idle_timeout_ms,
                    handshake_timeout_ms=listener.protection.tls_handshake_timeout_ms,
                    half_close_timeout_ms=listener.half_close_timeout_ms,
                    protection=resolve_protection(
                        listener.protection, f"{place}.protection", self._networks, problems
                    ),
                    trusted_proxies=listener.trusted_proxies if listener.accept_proxy_protocol else (),
                    mode=listener.mode,
                    redirect_port=listener.redirect_port or HTTPS_PORT,
                )
            )
            identity = authority = ""
            if listener.default_cert is not None:
                identity = self._credentials.identity(
                    listener.default_cert, f"{place}.default_cert", problems
                )
            if listener.mtls is not None:
                authority = self._credentials.client_authority(listener.mtls, f"{place}.mtls", problems)
            defaults.append((identity, authority) if listener.mode == "tls" else None)
        check_addresses(addresses, problems)
        self._findings.add(problems)
        return entries, defaults

    def _resolve_route(
        self, index: int, route: Route, name: str, where: Where, certain: bool
    ) -> tuple[RouteEntry, TlsPolicy]:
        """Return the route without its policies, and what it says itself about TLS; `certain`: listeners are known."""
        place = f"routes[{index}]"
        problems: list[Problem] = []
        if route.listeners and certain:
            self._listener_ids.check(route.listeners, f"{place}.listeners", problems)
        check_route(route, place, problems)
        check_client_header(route, place, problems)
        upstreams = tuple(
            self._upstream(upstream, place, position, problems)
            for position, upstream in enumerate(route.upstreams)
        )
        self._upstreams_seen.check(route, upstreams, place, problems)
        identity = authority = ""
        if route.cert is not None:
            identity = self._credentials.identity(route.cert, f"{place}.cert", problems)
        if route.mtls is not None:
            authority = self._credentials.client_authority(route.mtls, f"{place}.mtls", problems)
        self._findings.add(problems)
        rate = route.max_connections_per_second or 0.0
        burst = max(1.0, rate) if route.burst is None else route.burst
        entry = RouteEntry(
            name,
            upstreams,
            route.terminate_tls,
            (),
            rate,
            burst if rate else 0.0,
            source_address_header=route.source_address_header,
            forward_fingerprint=route.forward_fingerprint,
            suspend_timeout_ms=route.suspend_timeout_ms if route.suspended else 0,
            balance=route.balance,
            listeners=where,
        )
        return entry, TlsPolicy(identity, authority, route.http2)

    def _upstream(self, upstream: Upstream, place: str, position: int, problems: list[Problem]) -> Upstream:
        known = self._upstreams.get(upstream)
        if known is not None:
            return known
        count = len(problems)
        result = check_upstream(
            upstream, f"{place}.upstreams[{position}]", self._document.directory, problems
        )
        if len(problems) == count:
            self._upstreams[upstream] = result
        return result

    def _warn_of_plain_only(self, where: dict[int, Where], listeners: list[ListenerEntry]) -> None:
        secure = {listener.id for listener in listeners if listener.mode == "tls"}
        for index, ids in where.items():
            if ids and secure and index not in self._findings.broken and secure.isdisjoint(ids):
                text = (
                    'has listeners with mode = "http" only: the route will be used for ACME challenges alone'
                )
                self._findings.warnings.add(f"routes[{index}].listeners", text)

    def _snapshot(
        self,
        config: Config,
        listeners: list[ListenerEntry],
        routes: list[RouteEntry],
        policies: tuple[TlsPolicy, ...],
    ) -> Snapshot:
        identities = self._credentials.identities
        authorities = self._credentials.client_authorities
        snapshot = Snapshot(
            version=1,
            read_buffer_size=config.read_buffer_size,
            drain_timeout_ms=config.drain_timeout_ms,
            access_log_rate=config.access_log.rate if config.access_log is not None else 0.0,
            listeners=tuple(listeners),
            routes=tuple(routes),
            policies=policies,
            identities={
                digest: identities[digest]
                for digest in {policy.identity for policy in policies if policy.identity}
            },
            client_authorities={
                digest: authorities[digest]
                for digest in {policy.client_authority for policy in policies if policy.client_authority}
            },
            networks=self._networks.packed,
        )
        return number_snapshot(snapshot, None)


def _elements(raw: object, type_: Any) -> list[tuple[int, Any]]:
    """Convert each element of an array on its own, and keep those that are in order with their index."""
    if not isinstance(raw, list):
        return []
    converted = ((index, convert_or_none(item, type_)) for index, item in enumerate(raw))
    return [(index, item) for index, item in converted if item is not None]
