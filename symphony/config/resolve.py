"""From a configuration file to a snapshot: everything checked, every file read.

Findings are of two kinds. What is wrong inside single routes leaves those routes out of the snapshot and touches
no other; what is wrong anywhere else leaves no snapshot at all. A start refuses both (:meth:`Loaded.require`); a
reload lives with the first kind (:mod:`symphony.config.reload`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from symphony.config.check import (
    check_addresses,
    check_host,
    check_mode,
    check_route,
    check_upstream,
)
from symphony.config.check_identity import check_client_header, check_trusted_proxies
from symphony.config.check_upstreams import UpstreamsSeen
from symphony.config.credentials import Credentials
from symphony.config.model import Config, Listener, Route, Upstream
from symphony.config.networks import NetworkLists
from symphony.config.numbering import number_snapshot
from symphony.config.original import is_original, translate
from symphony.config.problem import ConfigError, Problem, Severity, SharedWarnings
from symphony.config.protection import resolve_protection
from symphony.config.route_names import ListenerIds, TakenNames, Where
from symphony.config.schema import convert, convert_or_none
from symphony.config.server_name import ServerNameError, normalise_server_name
from symphony.config.snapshot import ListenerEntry, RouteEntry, Snapshot, TlsPolicy
from symphony.config.source import Document, read_document
from symphony.config.wording import quoted
from symphony.host.users import UnknownAccount, find_account
from symphony.watch.files import SeenFile, Sightings

HTTPS_PORT = 443
"""Where redirects of a plain HTTP listener lead when the file does not say."""

_ROUTE_PLACE = re.compile(r"routes\[(\d+)\]")
_ELEMENT_PLACE = re.compile(r"(listeners|routes)\[(\d+)\]")


class Loaded(Struct, frozen=True):
    """What became of a configuration file.

    `config` and `snapshot` hold the routes that are in order; both are None when anything is wrong outside single
    routes. `own_policies` has one entry per route of the snapshot: what the route itself says, "" for what it
    leaves to the listener. `broken` has the routes left out: the name of each, and the ids of the listeners that were
    to have it (none: all, or nobody can tell); None for one whose name cannot be read. `seen` are
    all files that were read or should have been: this file first, then certificates and lists. `watch` is what the
    file says about watching them, None when that cannot be told.
    """

    file: str
    config: Config | None
    snapshot: Snapshot | None
    own_policies: tuple[TlsPolicy, ...]
    broken: tuple[tuple[str, Where] | None, ...]
    problems: tuple[Problem, ...]
    seen: tuple[SeenFile, ...] = ()
    watch: bool | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The absolute paths of `seen`."""
        return tuple(seen.path for seen in self.seen)

    def require(self) -> tuple[Config, Snapshot]:
        """Return the configuration and its snapshot. Raises :class:`ConfigError` if any problem is an error."""
        failed = any(problem.severity is Severity.ERROR for problem in self.problems)
        if failed or self.config is None or self.snapshot is None:
            raise ConfigError(self.file, list(self.problems))
        return self.config, self.snapshot


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
    """One load. Each step adds to `_problems` (errors only), and goes on with what is in order."""

    def __init__(
        self, document: Document, content: dict[str, Any], now: datetime, sightings: Sightings
    ) -> None:
        self._document = document
        self._content = content
        self._problems: list[Problem] = []
        self._warnings = SharedWarnings()
        self._credentials = Credentials(document.directory, now, self._warnings, sightings)
        self._networks = NetworkLists(document.directory, sightings)
        self._broken: set[int] = set()
        self._upstreams: dict[Upstream, Upstream] = {}
        self._upstreams_seen = UpstreamsSeen()
        self._policies: dict[TlsPolicy, int] = {}
        self._listener_ids = ListenerIds()

    def run(self) -> Loaded:
        raw_routes = self._content.get("routes", [])
        config, listeners, routes = self._convert(raw_routes)
        entries, defaults = self._resolve_listeners(listeners)
        names = self._names(raw_routes)
        where = self._assignments(raw_routes)
        self._find_repeated(names, where)
        self._check_whole()
        certain = self._listeners_in_order()
        resolved = [
            (
                index,
                self._resolve_route(index, route, names.get(index, ""), where.get(index, ()), certain),
            )
            for index, route in routes
        ]
        route_entries, own = self._attach_policies(resolved, entries, defaults)
        self._warn_of_plain_only(where, entries)
        whole = all(_ROUTE_PLACE.match(problem.place) for problem in self._problems)
        problems = tuple(sorted(self._problems + self._warnings.problems(), key=_document_order))
        broken = tuple(
            (names[index], where.get(index, ())) if index in names else None for index in sorted(self._broken)
        )
        if config is None or not whole:
            return Loaded(self._document.file, None, None, (), broken, problems)
        healthy = tuple(route for index, route in routes if index not in self._broken)
        snapshot = self._snapshot(config, entries, route_entries)
        config = msgspec.structs.replace(config, routes=healthy)
        return Loaded(self._document.file, config, snapshot, own, broken, problems)

    def _convert(
        self, raw_routes: object
    ) -> tuple[Config | None, list[tuple[int, Listener]], list[tuple[int, Route]]]:
        """Convert the document, or, where it is at fault, whatever of it is in order."""
        config, problems = convert(self._content, Config)
        if config is not None:
            return config, list(enumerate(config.listeners)), list(enumerate(config.routes))
        self._add(problems)
        frame = convert_or_none({**self._content, "routes": []}, Config)
        if not isinstance(raw_routes, list):
            frame = None
        listeners = _elements(self._content.get("listeners"), Listener)
        return frame, listeners, _elements(raw_routes, Route)

    def _add(self, problems: list[Problem]) -> None:
        for problem in problems:
            match = _ROUTE_PLACE.match(problem.place)
            if match:
                self._broken.add(int(match[1]))
        self._problems.extend(problems)

    def _check_whole(self) -> None:
        if self._content.get("listeners") == []:
            self._problems.append(Problem("listeners", "is empty: expected at least one listener"))
        if self._content.get("routes", []) == []:
            self._warnings.add("routes", "is empty: every connection will be refused until there is a route")
        self._check_account()
        directory = self._content.get("runtime_dir")
        if isinstance(directory, str) and (not directory or "\0" in directory):
            text = f"{quoted(directory)} is not a file name: expected a directory"
            self._problems.append(Problem("runtime_dir", text))

    def _check_account(self) -> None:
        user, group = self._content.get("user"), self._content.get("group")
        if isinstance(user, str):
            try:
                find_account(user, group if isinstance(group, str) else None)
            except UnknownAccount as error:
                self._problems.append(Problem(error.key, f"{error}: expected the name or number of one"))
        elif group is not None:
            self._problems.append(Problem("group", "means nothing without user: expected both or neither"))

    def _names(self, raw_routes: object) -> dict[int, str]:
        """Normalise the name of every route, broken ones included."""
        names: dict[int, str] = {}
        for index, raw in enumerate(raw_routes if isinstance(raw_routes, list) else ()):
            written = raw.get("sni") if isinstance(raw, dict) else None
            if not isinstance(written, str):
                continue
            try:
                names[index] = normalise_server_name(written)
            except ServerNameError as error:
                self._add([Problem(f"routes[{index}].sni", str(error))])
        return names

    def _assignments(self, raw_routes: object) -> dict[int, Where]:
        """The listeners of every route, broken ones included, where they can be told."""
        known: dict[int, Where] = {}
        for index, raw in enumerate(raw_routes if isinstance(raw_routes, list) else ()):
            written = raw.get("listeners", []) if isinstance(raw, dict) else None
            if not isinstance(written, list) or not all(isinstance(name, str) for name in written):
                continue
            found = [id for name in written if (id := self._listener_ids.find(name)) is not None]
            if found or not written:
                known[index] = self._listener_ids.in_order(found)
        return known

    def _find_repeated(self, names: dict[int, str], where: dict[int, Where]) -> None:
        taken = TakenNames()
        for index, name in names.items():
            if index not in where:
                continue
            clash = taken.take(index, name, where[index])
            if clash is not None:
                # Which of the two is meant cannot be told, so neither is served.
                other, text = clash
                self._broken.add(other)
                self._add([Problem(f"routes[{index}].sni", text)])

    def _warn_of_plain_only(self, where: dict[int, Where], listeners: list[ListenerEntry]) -> None:
        secure = {listener.id for listener in listeners if listener.mode == "tls"}
        for index, ids in where.items():
            if ids and secure and index not in self._broken and secure.isdisjoint(ids):
                text = (
                    'has listeners with mode = "http" only: the route will be used for ACME challenges alone'
                )
                self._warnings.add(f"routes[{index}].listeners", text)

    def _listeners_in_order(self) -> bool:
        return not any(problem.place.startswith("listeners") for problem in self._problems)

    def _resolve_listeners(
        self, listeners: list[tuple[int, Listener]]
    ) -> tuple[list[ListenerEntry], list[tuple[str, str] | None]]:
        """Return the entries, and for each the digests of its default identity and client authority.

        None stands for a listener without TLS.
        """
        entries: list[ListenerEntry] = []
        defaults: list[tuple[str, str] | None] = []
        addresses: list[tuple[str, str, int]] = []
        for index, listener in listeners:
            place = f"listeners[{index}]"
            host = check_host(listener, place, self._problems)
            check_trusted_proxies(listener, place, self._problems, self._warnings)
            check_mode(listener, place, self._problems)
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
                        listener.protection, f"{place}.protection", self._networks, self._problems
                    ),
                    trusted_proxies=listener.trusted_proxies if listener.accept_proxy_protocol else (),
                    mode=listener.mode,
                    redirect_port=listener.redirect_port or HTTPS_PORT,
                )
            )
            identity = authority = ""
            if listener.default_cert is not None:
                identity = self._credentials.identity(
                    listener.default_cert, f"{place}.default_cert", self._problems
                )
            if listener.mtls is not None:
                authority = self._credentials.client_authority(listener.mtls, f"{place}.mtls", self._problems)
            defaults.append((identity, authority) if listener.mode == "tls" else None)
        check_addresses(addresses, self._problems)
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
        if problems:
            self._add(problems)
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

    def _attach_policies(
        self,
        resolved: list[tuple[int, tuple[RouteEntry, TlsPolicy]]],
        listeners: list[ListenerEntry],
        defaults: list[tuple[str, str] | None],
    ) -> tuple[list[RouteEntry], tuple[TlsPolicy, ...]]:
        """Give every route its policy on each TLS listener that has it; find routes that have none there.

        That is looked for only when the listeners are in order: one at fault may be the one with the certificate.
        """
        certain = self._listeners_in_order()
        entries: list[RouteEntry] = []
        own_policies: list[TlsPolicy] = []
        columns: dict[tuple[TlsPolicy, bool, Where], tuple[int, ...]] = {}
        for index, (entry, own) in resolved:
            if index in self._broken:
                continue
            suspended = entry.suspend_timeout_ms > 0
            if entry.terminate_tls or suspended:
                where = entry.listeners
                policies = columns.get((own, suspended, where))
                if policies is None:
                    policies = columns[own, suspended, where] = tuple(
                        -1
                        if default is None or (where and listener.id not in where)
                        else self._policy_index(own, *default, suspended)
                        for listener, default in zip(listeners, defaults, strict=True)
                    )
                if certain and -1 in policies:
                    self._report_uncovered(index, policies, listeners, where)
                    if index in self._broken:
                        continue
                entry = msgspec.structs.replace(entry, policies=policies)
            entries.append(entry)
            own_policies.append(own)
        return entries, tuple(own_policies)

    def _policy_index(self, own: TlsPolicy, identity: str, authority: str, suspended: bool) -> int:
        policy = TlsPolicy(own.identity or identity, own.client_authority or authority, own.http2)
        if not policy.identity and not suspended:
            return -1
        return self._policies.setdefault(policy, len(self._policies))

    def _report_uncovered(
        self, index: int, policies: tuple[int, ...], listeners: list[ListenerEntry], where: Where
    ) -> None:
        place = f"routes[{index}].cert"
        without = [
            listener.id
            for listener, policy in zip(listeners, policies, strict=True)
            if policy == -1 and listener.mode == "tls" and (not where or listener.id in where)
        ]
        if not without:
            return
        if all(policy == -1 for policy in policies):
            whose = "no listener of the route" if where else "no listener"
            text = (
                f"is missing, and {whose} has a default_cert: expected one of them, or terminate_tls = false"
            )
            self._add([Problem(place, text)])
            return
        text = f"is missing, and so is the default_cert of {', '.join(without)}: the route will not be served there"
        self._warnings.add(place, text)

    def _snapshot(self, config: Config, listeners: list[ListenerEntry], routes: list[RouteEntry]) -> Snapshot:
        policies = tuple(self._policies)
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


def _document_order(problem: Problem) -> tuple[int, int]:
    match = _ELEMENT_PLACE.match(problem.place)
    if match is None:
        return 0, 0
    return (1 if match[1] == "listeners" else 2), int(match[2])
