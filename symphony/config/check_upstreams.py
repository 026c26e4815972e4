"""What is wrong with the upstreams of routes, seen together."""

from __future__ import annotations

from collections.abc import Sequence

from symphony.config.model import HealthCheck, Upstream
from symphony.config.problem import Problem
from symphony.config.wording import quoted


class UpstreamsSeen:
    """All upstreams of a file, route by route."""

    def __init__(self) -> None:
        self._checks: dict[str, tuple[HealthCheck, str]] = {}

    def check(self, upstreams: Sequence[Upstream], place: str, problems: list[Problem]) -> None:
        """Find upstreams of the route at `place` that are to be checked in another way than by an earlier entry."""
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
