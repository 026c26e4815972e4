"""What is wrong with the keys that say who a client is: to upstreams, and by proxies in front."""

from __future__ import annotations

from symphony.config.model import Listener, Route
from symphony.config.problem import Problem, SharedWarnings
from symphony.config.wording import quoted
from symphony.protection.cidr import CidrError, parse_network

FINGERPRINT_CARRIERS = ("proxy_protocol_v2", "x_forwarded_for")
"""The values of `source_address_header` that have a place for fingerprints."""


def check_client_header(route: Route, place: str, problems: list[Problem]) -> None:
    """Find what a route's `source_address_header` cannot do, or cannot carry."""
    _check_rewriting(route, place, problems)
    prints = route.forward_fingerprint
    if not prints:
        return
    key = f"{place}.forward_fingerprint"
    if len(set(prints)) < len(prints):
        problems.append(Problem(key, "names a fingerprint twice: expected each once"))
    if route.source_address_header not in FINGERPRINT_CARRIERS:
        expected = " or ".join(quoted(name) for name in FINGERPRINT_CARRIERS)
        text = (
            f"means nothing with source_address_header = {quoted(route.source_address_header)}, which has no place "
            f"for a fingerprint: expected source_address_header = {expected}"
        )
        problems.append(Problem(key, text))


def _check_rewriting(route: Route, place: str, problems: list[Problem]) -> None:
    if route.source_address_header != "x_forwarded_for":
        return
    encrypted = "where requests are encrypted"
    if route.suspended:
        encrypted += ", unless a held connection is resolved otherwise (it may be given this header then)"
    for hindered, setting, why in (
        (not route.terminate_tls, "terminate_tls = false", encrypted),
        (route.http2, "http2 = true", "since it is for HTTP/1 requests only"),
    ):
        if hindered:
            text = (
                f"{quoted('x_forwarded_for')} cannot be used with {setting}, {why}: "
                f"expected a PROXY header, or not {setting}"
            )
            problems.append(Problem(f"{place}.source_address_header", text))


def check_trusted_proxies(
    listener: Listener, place: str, problems: list[Problem], warnings: SharedWarnings
) -> None:
    """Find networks that are none, and a listener that would take anybody's word, or nobody's."""
    key = f"{place}.trusted_proxies"
    for position, entry in enumerate(listener.trusted_proxies):
        try:
            network = parse_network(entry)
        except CidrError as error:
            problems.append(Problem(f"{key}[{position}]", str(error)))
            continue
        if network.first == 0 and network.last >> (31 if network.version == 4 else 127):
            text = (
                "trusts every client to say who it is: expected the networks of the load balancers in front"
            )
            warnings.add(f"{key}[{position}]", text)
    if listener.accept_proxy_protocol and not listener.trusted_proxies:
        text = (
            "is missing: with accept_proxy_protocol, whoever is trusted names the client; expected the networks of "
            "the load balancers in front"
        )
        problems.append(Problem(key, text))
    elif listener.trusted_proxies and not listener.accept_proxy_protocol:
        text = (
            "means nothing without accept_proxy_protocol: expected accept_proxy_protocol = true, or neither"
        )
        problems.append(Problem(key, text))
