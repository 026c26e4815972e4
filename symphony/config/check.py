"""What is wrong with a configuration beyond types and limits, as far as it can be told without opening a file."""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Sequence

import msgspec

from symphony.config.model import Listener, Route, TcpUpstream, UdsUpstream, Upstream
from symphony.config.problem import Problem
from symphony.config.server_name import ServerNameError, normalise_host
from symphony.config.wording import quoted

# struct sockaddr_un holds 108 bytes with the closing zero (unix(7)).
SOCKET_PATH_LIMIT = 107
_WILDCARDS = ("0.0.0.0", "::")
_SUSPEND_TIMEOUT_MS = Route(sni="").suspend_timeout_ms


def check_host(listener: Listener, place: str, problems: list[Problem]) -> str:
    """Return the listener's host in normal form, or "" after adding what is wrong with it."""
    try:
        host = normalise_host(listener.host)
    except ServerNameError as error:
        problems.append(Problem(f"{place}.host", str(error)))
        return ""
    if ":" in host and (mapped := ipaddress.IPv6Address(host).ipv4_mapped) is not None:
        text = f"{quoted(listener.host)} is an IPv4 address written as IPv6: expected {quoted(str(mapped))}"
        problems.append(Problem(f"{place}.host", text))
        return ""
    return host


def check_mode(listener: Listener, place: str, problems: list[Problem]) -> None:
    """Find keys of a listener that mean nothing in its mode."""
    if listener.mode == "tls":
        if listener.redirect_port is not None:
            text = 'means nothing without mode = "http": expected both or neither'
            problems.append(Problem(f"{place}.redirect_port", text))
        return
    protection = listener.protection
    for key, given in (
        ("default_cert", listener.default_cert is not None),
        ("mtls", listener.mtls is not None),
        ("protection.ja3_blocklist", bool(protection.ja3_blocklist)),
        ("protection.ja4_blocklist", bool(protection.ja4_blocklist)),
        ("protection.require_sni", protection.require_sni),
    ):
        if given:
            text = f'cannot be used with mode = "http", where there is no TLS: expected no {key}, or mode = "tls"'
            problems.append(Problem(f"{place}.{key}", text))


def check_addresses(listeners: Sequence[tuple[str, str, int]], problems: list[Problem]) -> None:
    """Find two listeners that cannot both be bound. Each is (place, normalised host, port).

    A wildcard address takes the port of every address of its family. ``::`` and ``0.0.0.0`` go together, since
    IPv6 sockets are bound for IPv6 only. Whether a name stands for an address that is taken shows at binding.
    """
    by_port: dict[int, list[tuple[str, str]]] = {}
    for place, host, port in listeners:
        if port == 0 or not host:
            continue
        others = by_port.setdefault(port, [])
        for other_place, other in others:
            if _overlap(host, other):
                mine, theirs = render_address(host, port), f"{other_place} ({render_address(other, port)})"
                if host == other:
                    text = f"{mine} is the same address as {theirs}"
                else:
                    wildcard = host if host in _WILDCARDS else other
                    text = f"{mine} overlaps with {theirs}, as {wildcard} stands for all addresses"
                problems.append(Problem(place, f"{text}: expected another host or port"))
                break
        others.append((place, host))


def check_route(route: Route, place: str, problems: list[Problem]) -> None:
    """Find keys of a route that contradict each other, or lack one another."""
    if not route.upstreams and not route.suspended:
        text = "is missing or empty: expected at least one upstream (only a route with suspended = true may have none)"
        problems.append(Problem(f"{place}.upstreams", text))
    if route.suspend_timeout_ms != _SUSPEND_TIMEOUT_MS and not route.suspended:
        text = "means nothing without suspended = true: expected both or neither"
        problems.append(Problem(f"{place}.suspend_timeout_ms", text))
    rate = route.max_connections_per_second
    if rate is None:
        if route.burst is not None:
            text = "means nothing without max_connections_per_second: expected both or neither"
            problems.append(Problem(f"{place}.burst", text))
    elif not math.isfinite(rate):
        text = f"expected a finite number, found {rate} (leave the key out for no limit)"
        problems.append(Problem(f"{place}.max_connections_per_second", text))
    if route.burst is not None and not math.isfinite(route.burst):
        problems.append(Problem(f"{place}.burst", f"expected a finite number, found {route.burst}"))
    # A suspended route's certificate may still be used: that is decided for each connection.
    if not route.terminate_tls and not route.suspended:
        for key, given in (
            ("cert", route.cert is not None),
            ("mtls", route.mtls is not None),
            ("http2", route.http2),
        ):
            if given:
                text = (
                    "cannot be used with terminate_tls = false, where the TLS handshake is the upstream's: "
                    f"expected no {key}, or terminate_tls = true"
                )
                problems.append(Problem(f"{place}.{key}", text))


def check_upstream(upstream: Upstream, place: str, directory: str, problems: list[Problem]) -> Upstream:
    """Return the upstream with its host in normal form, or its path made absolute against `directory`.

    What is wrong is added to `problems`; the upstream is then returned as it is.
    """
    if isinstance(upstream, TcpUpstream):
        try:
            host = normalise_host(upstream.host)
        except ServerNameError as error:
            problems.append(Problem(f"{place}.host", str(error)))
            return upstream
        return upstream if host == upstream.host else msgspec.structs.replace(upstream, host=host)
    return _check_socket(upstream, place, directory, problems)


def _check_socket(upstream: UdsUpstream, place: str, directory: str, problems: list[Problem]) -> UdsUpstream:
    if (upstream.pid is None) != (upstream.tid is None):
        given, missing = ("pid", "tid") if upstream.tid is None else ("tid", "pid")
        text = f"is missing: {given} alone names no thread; expected both or neither"
        problems.append(Problem(f"{place}.{missing}", text))
    path_place = f"{place}.path"
    if not upstream.path:
        problems.append(Problem(path_place, "is empty: expected the path of a Unix socket"))
        return upstream
    path = os.path.join(directory, upstream.path)
    try:
        length = len(os.fsencode(path))
    except UnicodeEncodeError:
        problems.append(Problem(path_place, f"{quoted(upstream.path)} is not a file name"))
        return upstream
    if "\0" in path:
        problems.append(Problem(path_place, f"{quoted(upstream.path)} is not a file name"))
    elif length > SOCKET_PATH_LIMIT:
        text = f"{quoted(path)} has {length} bytes: expected at most {SOCKET_PATH_LIMIT}, the system's limit"
        problems.append(Problem(path_place, text))
    return upstream if path == upstream.path else msgspec.structs.replace(upstream, path=path)


def _overlap(one: str, other: str) -> bool:
    if one == other:
        return True
    family, other_family = _family(one), _family(other)
    return family is not None and family == other_family and (one in _WILDCARDS or other in _WILDCARDS)


def _family(host: str) -> int | None:
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None


def render_address(host: str, port: int) -> str:
    """Write an address as in a URL: IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
