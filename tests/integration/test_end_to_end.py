"""The whole product with real clients and real services: every kind of route, and children killed in between."""

from __future__ import annotations

import os
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.calls import (
    CLIENTS,
    CallFailed,
    ask,
    call,
    client_context,
    connect,
    missing_clients,
    s_client,
)
from tests.support.campaign import CHILDREN, run_campaign
from tests.support.resumption import reconnect, take_sessions_along
from tests.support.showcase import Showcase, running_showcase

ACCEPTORS = ("acceptor-0", "acceptor-1")
CALLS = 200
KILL_EVERY = 6

pytestmark = pytest.mark.skipif(
    bool(missing_clients()), reason=f"not installed: {', '.join(missing_clients())}"
)


@pytest.fixture(scope="module")
def show() -> Iterator[Showcase]:
    with running_showcase() as running:
        yield running


def test_every_call_is_right_whatever_is_killed_in_between(show: Showcase) -> None:
    restarts = {found.name: found.restarts for found in show.symphony.status().actors}
    campaign = run_campaign(show, CALLS, KILL_EVERY)
    assert campaign.failures == []
    assert campaign.right == CALLS
    assert all(campaign.kills[name] >= 6 for name in CHILDREN), campaign.kills
    assert set(campaign.by_service) == {
        service for each in show.expected.values() for service in each.services
    }
    for name in CHILDREN:
        show.symphony.wait_running(name)
    after = {found.name: found.restarts for found in show.symphony.status().actors}
    assert {name: after[name] - restarts[name] for name in CHILDREN} == dict(campaign.kills)
    assert "Traceback" not in show.symphony.log


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_without_certificate_is_refused_by_the_route_that_demands_one(
    show: Showcase, client: str
) -> None:
    served = show.services.served["mutual"]
    with pytest.raises(CallFailed):
        call(client, show.without_certificate)
    assert show.services.served["mutual"] == served
    assert show.expected["exact"].holds(call(client, show.expected["exact"].target))


def test_http2_is_offered_where_the_route_says_so(show: Showcase) -> None:
    for route, chosen in (("wildcard", "h2"), ("exact", "http/1.1")):
        target = show.expected[route].target
        context = client_context(target)
        context.set_alpn_protocols(["h2", "http/1.1"])
        with connect(target, context) as connection:
            assert connection.selected_alpn_protocol() == chosen, route
        with connect(target) as connection:
            assert connection.selected_alpn_protocol() is None, route


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_of_tls_reach_every_terminated_route(show: Showcase, version: ssl.TLSVersion) -> None:
    for expected in show.expected.values():
        context = client_context(expected.target)
        context.minimum_version = context.maximum_version = version
        with connect(expected.target, context) as connection:
            assert connection.version() == version.name.replace("_", ".")
            assert ask(connection) in expected.services


def test_a_tls12_session_is_resumed_whichever_acceptor_answers(show: Showcase) -> None:
    found = reconnect(show.symphony, show.expected["exact"].target, ACCEPTORS, most=20)
    assert found.failures == []
    assert all(found.by_acceptor[name] for name in ACCEPTORS), found


def test_a_tls13_session_is_resumed_whichever_acceptor_answers(show: Showcase) -> None:
    found = take_sessions_along(show.symphony, show.expected["pool"].target, ACCEPTORS, most=40)
    assert found.failures == []
    assert len(found.pairs) == 4, found


def test_a_session_outlives_the_acceptors_and_opens_no_other_route(show: Showcase, tmp_path: Path) -> None:
    session = str(tmp_path / "session.pem")
    exact, pool, mutual = (show.expected[route].target for route in ("exact", "pool", "mutual"))
    assert "\nNew, TLSv1.3" in s_client(exact, "-tls1_3", "-sess_out", session)
    for name in ACCEPTORS:
        os.kill(show.symphony.wait_running(name).pid, signal.SIGKILL)
    for name in ACCEPTORS:
        show.symphony.wait_running(name)
    assert "\nReused, TLSv1.3" in s_client(exact, "-tls1_3", "-sess_in", session)
    assert "\nNew, TLSv1.3" in s_client(pool, "-tls1_3", "-sess_in", session)
    assert "\nNew, TLSv1.3" in s_client(mutual, "-tls1_3", "-sess_in", session)
