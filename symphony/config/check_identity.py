"""What is wrong with the keys that say who a client is: to upstreams, and by proxies in front."""

from __future__ import annotations

from symphony.config.model import Route
from symphony.config.problem import Problem
from symphony.config.wording import quoted

_CARRIERS = ("proxy_protocol_v2",)


def check_client_header(route: Route, place: str, problems: list[Problem]) -> None:
    """Find what a route's `source_address_header` cannot do, or cannot carry."""
    prints = route.forward_fingerprint
    if not prints:
        return
    key = f"{place}.forward_fingerprint"
    if len(set(prints)) < len(prints):
        problems.append(Problem(key, "names a fingerprint twice: expected each once"))
    if route.source_address_header not in _CARRIERS:
        expected = " or ".join(quoted(name) for name in _CARRIERS)
        text = (
            f"means nothing with source_address_header = {quoted(route.source_address_header)}, which has no place "
            f"for a fingerprint: expected source_address_header = {expected}"
        )
        problems.append(Problem(key, text))
