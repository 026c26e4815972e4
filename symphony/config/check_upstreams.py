"""What is wrong with the upstreams of routes, seen together."""

from __future__ import annotations

from collections.abc import Sequence

from symphony.config.model import HealthCheck, Route, Upstream
from symphony.config.problem import Problem
from symphony.config.wording import quoted


class UpstreamsSeen:
    """All upstreams of a file, route by route."""

    def __init__(self) -> None:
        self._checks: dict[str, tuple[HealthCheck, str]] = {}

    def check(self, route: Route, upstreams: Sequence[Upstream], place: str, problems: list[Problem]) -> None:
        """Find what does not go together among `upstreams`, those of `route`, and with those of earlier routes."""
        if upstreams and upstreams[0].ip_affinity:
            if route.balance in ("round_robin", "random"):
                text = (
                    f"{quoted(route.balance)} contradicts ip_affinity, by which the client's address chooses: "
                    "expected one of them"
                )
                problems.append(Problem(f"{place}.balance", text))
        else:
            for index, upstream in enumerate(upstreams):
                if upstream.ip_affinity:
                    text = (
                        "means nothing here: expected it in the first entry, which decides for the whole list"
                    )
                    problems.append(Problem(f"{place}.upstreams[{index}].ip_affinity", text))
        self._check_health(upstreams, place, problems)
        self._check_protocols(route, upstreams, place, problems)

    def _check_protocols(
        self, route: Route, upstreams: Sequence[Upstream], place: str, problems: list[Problem]
    ) -> None:
        marked = [index for index, upstream in enumerate(upstreams) if upstream.protocol == "h2"]
        if not marked:
            return
        where = f"{place}.upstreams[{marked[0]}].protocol"
        if not route.http2:
            problems.append(Problem(where, "means nothing without http2 = true: expected both or neither"))
        elif len(marked) == len(upstreams):
            text = "leaves no upstream for clients without HTTP/2: expected one with another protocol (or no protocol)"
            problems.append(Problem(where, text))

    def _check_health(self, upstreams: Sequence[Upstream], place: str, problems: list[Problem]) -> None:
        for index, upstream in enumerate(upstreams):
            settings = upstream.health_check
            if settings is None:
                continue
            here = f"{place}.upstreams[{index}].health_check"
            known, there = self._checks.setdefault(upstream.label, (settings, here))
            if known != settings:
                text = (
                    f"is another one than {there}, for the same upstream {quoted(upstream.label)}, which is checked "
                    "once for all routes: expected the same, or none here"
                )
                problems.append(Problem(here, text))
