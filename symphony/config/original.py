"""Takes the configuration file of the Node.js proxy of the same name: camelCase keys under ``proxies``.

Only what is spelled or defaulted otherwise there is changed; the result is a document in this project's own keys, which
is checked as any other. The differences:

- Keys are camelCase, and so are the values of `sourceAddressHeader`; a null stands for a key that is not there.
- `workerThreads` is `workers` here, and belongs to the whole instance, as `readBufferSize` does: of several proxies
  the largest counts.
- Without `sourceAddressHeader`, Unix-socket upstreams are sent a PROXY header of version 1 and TCP upstreams none.
- `forwardFingerprint` is one name or ``"none"``.
- A route's `protocol` says that it carries HTTP, which is said here by asking for fields in requests; it is left out.
- Buffers are smaller there, one for each connection; the one that a process has here is not made as small.
- Each proxy there has routes of its own for its listeners, and so they have here: the routes of several proxies name
  their listeners, unless all proxies have the same routes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from symphony.config.model import Listener
from symphony.config.problem import Problem, Severity
from symphony.config.route_names import ListenerIds
from symphony.config.server_name import ServerNameError, normalise_host
from symphony.config.wording import found

_CAPITAL = re.compile(r"(?<=[a-z0-9])[A-Z]")
_OWN_NAMES = {"workerThreads": "workers"}
_UNUSED = ("clientReadBufferSize", "upstreamReadBufferSize")
_LEAST_BUFFER = 16384
_INSTANCE_KEYS = ("workers", "read_buffer_size")
_KNOWN = {"version", "admin", "proxies"}
_ANY_HOST = Listener(port=0).host
_UNREADABLE = "?"
"""Stands for the id of a listener that is none; what is wrong with it is told at its own place."""


def is_original(content: dict[str, Any]) -> bool:
    """Whether a document is of that form: it has `proxies`, and nothing of this project's own form."""
    return "proxies" in content and "listeners" not in content and "routes" not in content


def translate(content: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the same configuration in this project's keys, and what of it could not be taken over.

    What is not even of the right type is passed on as it is: checking the result says what is wrong with it.
    """
    problems: list[Problem] = []
    for key in content.keys() - _KNOWN:
        problems.append(Problem(key, "unknown key beside proxies: expected version, admin, proxies"))
    proxies = content["proxies"]
    if not isinstance(proxies, list) or not all(isinstance(proxy, dict) for proxy in proxies):
        problems.append(Problem("proxies", f"expected an array of tables, found {found(proxies)}"))
        return {"listeners": [], "routes": []}, problems
    result: dict[str, Any] = {"listeners": [], "routes": []}
    if isinstance(content.get("admin"), dict):
        result["admin"] = _admin(content["admin"])
    parts = [_add_proxy(result, _snake(proxy), index, problems) for index, proxy in enumerate(proxies)]
    if all(routes == parts[0][1] for _, routes in parts):
        result["routes"] = parts[0][1] if parts else []
        return result, problems
    for ids, routes in parts:
        for route in routes:
            if isinstance(route, dict):
                route.setdefault("listeners", list(ids))
        result["routes"] += routes
    return result, problems


def _add_proxy(
    result: dict[str, Any], proxy: dict[str, Any], index: int, problems: list[Problem]
) -> tuple[list[str], list[Any]]:
    """Take over all of a proxy but its routes, which are returned behind the ids of its listeners."""
    for key in _UNUSED:
        if proxy.pop(_snake_key(key), None) is not None:
            text = "is not taken over: there is one buffer here, set by readBufferSize"
            problems.append(Problem(f"proxies[{index}].{key}", text, Severity.WARNING))
    for key in _INSTANCE_KEYS:
        value = proxy.pop(key, None)
        if key == "read_buffer_size" and isinstance(value, int) and 0 < value < _LEAST_BUFFER:
            value = _LEAST_BUFFER
        before = result.get(key)
        if isinstance(value, int) and isinstance(before, int):
            value = max(value, before)
        if value is not None:
            result[key] = value
    listeners, routes = proxy.pop("listeners", []), proxy.pop("routes", [])
    for key in proxy:
        problems.append(Problem(f"proxies[{index}].{key}", "unknown key: expected listeners, routes, ..."))
    if not isinstance(listeners, list) or not isinstance(routes, list):
        problems.append(Problem(f"proxies[{index}]", "expected listeners and routes to be arrays"))
        return [_UNREADABLE], []
    if routes and not listeners:
        problems.append(Problem(f"proxies[{index}].listeners", "is empty: expected at least one listener"))
    before = len(result["listeners"])
    result["listeners"] += [_listener(listener) for listener in listeners]
    return _ids(result["listeners"])[before:], [_route(route) for route in routes]


def _ids(listeners: list[Any]) -> list[str]:
    given = ListenerIds()
    return [_id(listener, given) for listener in listeners]


def _id(listener: Any, given: ListenerIds) -> str:
    host = listener.get("host", _ANY_HOST) if isinstance(listener, dict) else None
    port = listener.get("port") if isinstance(listener, dict) else None
    if not isinstance(host, str) or not isinstance(port, int):
        return _UNREADABLE
    try:
        return given.add(host, normalise_host(host), port)
    except ServerNameError:
        return _UNREADABLE


def _listener(listener: Any) -> Any:
    if isinstance(listener, dict) and listener.get("mode") == "http":
        # It says itself that it ignores these there.
        return {k: v for k, v in listener.items() if k not in ("default_cert", "mtls", "protection")}
    return listener


def _route(route: Any) -> Any:
    if not isinstance(route, dict):
        return route
    upstreams = route.get("upstreams")
    header = route.get("source_address_header")
    if header is None:
        kinds = {upstream.get("kind") for upstream in upstreams or () if isinstance(upstream, dict)}
        if kinds == {"uds"}:
            route["source_address_header"] = "proxy_protocol"
    elif isinstance(header, str):
        route["source_address_header"] = _snake_key(header)
    if route.get("protocol") in ("http", "opaque"):
        del route["protocol"]
    fingerprint = route.get("forward_fingerprint")
    if isinstance(fingerprint, str):
        route["forward_fingerprint"] = [] if fingerprint == "none" else [fingerprint]
    return route


def _admin(admin: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _snake(admin).items() if key in ("socket_path", "host", "port")}


def _snake(value: Any) -> Any:
    """Rewrite the keys of all tables, leaving out those that are null."""
    if isinstance(value, dict):
        return {_snake_key(key): _snake(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_snake(item) for item in value]
    return value


def _snake_key(key: str) -> str:
    lowered: Callable[[re.Match[str]], str] = lambda match: "_" + match[0].lower()  # noqa: E731
    return _OWN_NAMES.get(key) or _CAPITAL.sub(lowered, key)
