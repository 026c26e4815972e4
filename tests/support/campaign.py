"""Many calls one after another, through every route by every client, with a child killed now and then in between."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.support.calls import CLIENTS, CallFailed, call
from tests.support.showcase import Showcase

CHILDREN = ("route-registry", "rate-limiter", "cpu-sampler", "acceptor-0", "acceptor-1")


@dataclass
class Campaign:
    """What came of it. `failures` has one line per call that was not right; `slowest_s` is of a call after a kill."""

    calls: int = 0
    by_client: Counter[str] = field(default_factory=Counter)
    by_route: Counter[str] = field(default_factory=Counter)
    by_service: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    @property
    def right(self) -> int:
        """Calls that the right service answered with the right certificate."""
        return self.calls - len(self.failures)


def run_campaign(show: Showcase, calls: int, kill_every: int) -> Campaign:
    """Make `calls` calls; before every `kill_every`-th one, SIGKILL a child, each kind in turn.

    The call begins at once, while the killed process may still be dying. Each client takes each route in turn.
    """
    campaign = Campaign()
    plan = itertools.cycle(itertools.product(show.expected.values(), CLIENTS))
    victims = itertools.cycle(CHILDREN)
    for number, (expected, client) in enumerate(itertools.islice(plan, calls)):
        killed = ""
        if number % kill_every == kill_every - 1:
            killed = next(victims)
            show.symphony.kill_child(killed)
            campaign.kills[killed] += 1
        campaign.calls += 1
        campaign.by_client[client] += 1
        campaign.by_route[expected.route] += 1
        what = (
            f"call {number} ({client} to {expected.route}{', after the kill of ' + killed if killed else ''})"
        )
        began = time.monotonic()
        try:
            answer = call(client, expected.target)
        except CallFailed as error:
            campaign.failures.append(f"{what}: {error}")
            continue
        if killed:
            campaign.slowest_s = max(campaign.slowest_s, time.monotonic() - began)
        campaign.by_service[answer.service] += 1
        if not expected.holds(answer):
            campaign.failures.append(f"{what}: answered by {answer.service}, or with another certificate")
    return campaign
