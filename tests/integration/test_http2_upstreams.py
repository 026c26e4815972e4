"""Upstreams that are for clients with HTTP/2 only: who is led there, and who never is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import NamedTuple

import msgspec
import pytest

from symphony import Certificate, Config, Listener, ResolveRoute, Route, Suspended, SymphonyProxy
from symphony.config.model import UdsUpstream
from symphony.tls.certificate_maker import make_certificate
from tests.support.acceptor import AcceptorRig, route, running, snapshot
from tests.support.actor_process import Stage
from tests.support.services import Service
from tests.support.tls_client import client_context, get

BOTH, ONLY_1, ONLY_2, NONE = ("h2", "http/1.1"), ("http/1.1",), ("h2",), ()


class Place(NamedTuple):
    rig: AcceptorRig
    upstreams: list[UdsUpstream]


def marked(service: Service) -> UdsUpstream:
    return msgspec.structs.replace(service.upstream, protocol="h2")


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with ExitStack() as stack:
        one, other, second, third = (
            stack.enter_context(Service(name)) for name in ("one", "other", "second", "third")
        )
        missing = UdsUpstream(path="/nowhere/at/all", protocol="h2")
        routes = snapshot(
            route("split.test", marked(second), one.upstream, other.upstream, marked(third)),
            route("unmarked.test", one.upstream),
            route("missing.test", one.upstream, missing),
            msgspec.structs.replace(
                route("sticky.test", one.upstream, marked(second), other.upstream, marked(third)),
                balance="round_robin",
            ),
            http2=True,
        )
        rig, _ = stack.enter_context(running(stack.enter_context(Stage()), routes))
        yield Place(rig, [one.upstream, marked(second)])


@pytest.mark.parametrize(
    ("alpn", "chosen", "services"),
    [
        (BOTH, "h2", {b"second", b"third"}),
        (ONLY_2, "h2", {b"second", b"third"}),
        (ONLY_1, "http/1.1", {b"one", b"other"}),
        (NONE, None, {b"one", b"other"}),
    ],
)
def test_who_chose_http2_goes_to_its_upstreams_and_nobody_else(
    place: Place, alpn: tuple[str, ...], chosen: str | None, services: set[bytes]
) -> None:
    for name in ("split.test", "sticky.test"):
        answers = [get(place.rig.port, name, client_context(alpn=alpn)) for _ in range(8)]
        assert {answer.alpn for answer in answers} == {chosen}
        assert {answer.body for answer in answers} <= services
    assert {answer.body for answer in answers} == services


def test_without_such_upstreams_all_clients_go_to_the_others(place: Place) -> None:
    answer = get(place.rig.port, "unmarked.test", client_context(alpn=BOTH))
    assert (answer.alpn, answer.body) == ("h2", b"one")


def test_who_speaks_http2_never_ends_at_one_that_does_not(place: Place) -> None:
    before = place.rig.failures.get("upstream_missing", 0)
    with suppress(OSError):  # or an end without an answer: the ssl module does not always see the reset
        assert get(place.rig.port, "missing.test", client_context(alpn=BOTH)).body == b""
    assert get(place.rig.port, "missing.test", client_context(alpn=ONLY_1)).body == b"one"
    assert place.rig.failures["upstream_missing"] == before + 1


async def test_a_held_connection_may_be_led_likewise() -> None:
    made = make_certificate(["localhost"])
    certificate = Certificate(cert_chain=made.chain_pem.decode(), private_key=made.key_pem.decode())
    with Service("one") as one, Service("second") as second:
        config = Config(
            workers=1,
            listeners=(Listener(host="127.0.0.1", port=0, default_cert=certificate),),
            routes=(Route(sni="", suspended=True, http2=True),),
        )
        async with SymphonyProxy(config) as proxy:

            async def decide(connection: Suspended) -> None:
                way = ResolveRoute(upstreams=(one.upstream, marked(second)))
                assert await proxy.resolve_connection(connection.id, way)

            proxy.on("suspended", decide)
            port = int((await proxy.status()).listeners[0].address.rpartition(":")[2])
            for alpn, service in ((BOTH, b"second"), (ONLY_1, b"one"), (NONE, b"one")):
                answer = await asyncio.to_thread(get, port, "localhost", client_context(alpn=alpn))
                assert answer.body == service
