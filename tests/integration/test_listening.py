"""The listening sockets: one per acceptor, on one port, and never shared with somebody else's."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from symphony.api.listening import BoundListener, bind_listeners
from symphony.config.problem import ConfigError
from symphony.config.snapshot import ListenerEntry
from tests.support.ports import lasting_port


def entry(host: str, port: int) -> ListenerEntry:
    return ListenerEntry(
        id=f"{host}:{port}",
        host=host,
        port=port,
        max_connections=0,
        idle_timeout_ms=60000,
        handshake_timeout_ms=10000,
    )


@pytest.fixture
def bound() -> Iterator[list[BoundListener]]:
    kept: list[BoundListener] = []
    yield kept
    for listener in kept:
        listener.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::", "localhost"])
def test_all_sockets_of_a_listener_share_one_free_port(host: str, bound: list[BoundListener]) -> None:
    bound.extend(bind_listeners("f.toml", [entry(host, 0)], 3))
    (listener,) = bound
    ports = {sock.getsockname()[1] for sock in listener.sockets}
    assert len(listener.sockets) == 3
    assert len(ports) == 1
    assert listener.address.endswith(f":{ports.pop()}")
    assert listener.id == f"{host}:0"


def test_the_unspecified_ipv6_address_leaves_ipv4_alone(bound: list[BoundListener]) -> None:
    bound.extend(bind_listeners("f.toml", [entry("0.0.0.0", 0)], 1))
    port = bound[0].sockets[0].getsockname()[1]
    bound.extend(bind_listeners("f.toml", [entry("::", port)], 1))
    assert bound[1].address == f"[::]:{port}"


def test_accepted_sockets_inherit_keepalive_and_no_delay(bound: list[BoundListener]) -> None:
    bound.extend(bind_listeners("f.toml", [entry("127.0.0.1", 0)], 1))
    listening = bound[0].sockets[0]
    assert listening.getblocking() is False
    with socket.create_connection(listening.getsockname(), timeout=5):
        listening.settimeout(5)
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 15
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 4


@pytest.mark.parametrize("shares", [False, True], ids=["plain", "SO_REUSEPORT"])
def test_a_port_that_is_taken_is_refused_even_from_one_who_would_share(shares: bool) -> None:
    with socket.socket() as other:
        if shares:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError) as refused:
            bind_listeners("f.toml", [entry("127.0.0.1", 0), entry("127.0.0.1", port)], 2)
    (problem,) = refused.value.problems
    assert problem.place == "listeners[1].port"
    assert f"port {port} on 127.0.0.1 is already taken" in problem.text
    assert refused.value.file == "f.toml"


def test_every_listener_that_cannot_be_bound_is_named_and_nothing_stays_bound() -> None:
    port = lasting_port()
    wrong = [entry("192.0.2.1", 443), entry("no-such-name.invalid", 443)]
    with pytest.raises(ConfigError) as refused:
        bind_listeners("f.toml", [entry("127.0.0.1", port), *wrong], 2)
    assert [problem.place for problem in refused.value.problems] == ["listeners[1].host", "listeners[2].host"]
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))


def test_a_port_with_connections_in_time_wait_is_free(bound: list[BoundListener]) -> None:
    first = bind_listeners("f.toml", [entry("127.0.0.1", 0)], 1)[0]
    port = first.sockets[0].getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        first.sockets[0].settimeout(5)
        accepted, _ = first.sockets[0].accept()
        accepted.close()  # the side that closes first keeps the port in TIME_WAIT
        assert client.recv(1) == b""
    first.close()
    bound.extend(bind_listeners("f.toml", [entry("127.0.0.1", port)], 2))
    assert bound[0].address == f"127.0.0.1:{port}"
