"""The service manager's protocols against real sockets: notifications, the watchdog's times, passed descriptors."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from symphony.api.service_manager import Service, ServiceManager
from symphony.host import activation
from symphony.host.activation import UnusableSocket, take_passed_sockets
from symphony.host.notify import Notifier, notifier, watchdog_interval_s
from tests.support.forked import in_child
from tests.support.service_manager import NotifySocket


@pytest.fixture
def manager() -> Iterator[NotifySocket]:
    with NotifySocket() as found:
        yield found


def test_fields_are_lines_of_one_datagram(manager: NotifySocket) -> None:
    assert Notifier(manager.address).send(READY=1, STATUS="all is well")
    assert manager.receive() == {"READY": "1", "STATUS": "all is well"}


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0sy-{os.getpid()}-{time.monotonic_ns()}")
        sock.settimeout(5)
        name = sock.getsockname()[1:].decode()
        assert notifier({"NOTIFY_SOCKET": f"@{name}"}).send(WATCHDOG=1)
        assert sock.recv(100) == b"WATCHDOG=1"


def test_a_line_break_adds_no_field(manager: NotifySocket) -> None:
    Notifier(manager.address).send(STATUS="one\nREADY=1")
    assert manager.receive() == {"STATUS": "one READY=1"}


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_nobody_listens(environment: dict[str, str]) -> None:
    silent = notifier(environment)
    assert not silent.wanted
    assert not silent.send(READY=1)


def test_a_service_manager_that_is_gone_costs_nothing_but_a_line(manager: NotifySocket) -> None:
    os.unlink(manager.address)
    teller = Notifier(manager.address)
    began = time.monotonic()
    assert [teller.send(WATCHDOG=1) for _ in range(100)] == [False] * 100
    assert time.monotonic() - began < 5


def test_a_service_manager_that_does_not_read_is_not_waited_for(manager: NotifySocket) -> None:
    teller = Notifier(manager.address)
    deadline = time.monotonic() + 20
    while teller.send(WATCHDOG=1):
        assert time.monotonic() < deadline
    began = time.monotonic()
    assert not teller.send(WATCHDOG=1)
    assert time.monotonic() - began < 5
    manager.receive()
    assert teller.send(READY=1)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "77"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "78"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "-5"}, 0.0),
    ],
)
def test_how_often_the_watchdog_is_told(environment: dict[str, str], expected: float) -> None:
    assert watchdog_interval_s(environment, 77) == expected


async def test_a_life_as_the_service_manager_hears_it(manager: NotifySocket) -> None:
    service = [Service(2, 2)]
    told = ServiceManager(Notifier(manager.address), 0.02, lambda: service[0])
    told.ready()
    assert await manager.expect("READY") == {"READY": "1", "STATUS": "Serving with 2 acceptors"}
    await manager.expect("WATCHDOG")
    service[0] = Service(1, 2)
    assert (await manager.expect("STATUS"))["STATUS"] == "Serving with 1 of 2 acceptors"
    await manager.expect("WATCHDOG")
    service[0] = Service(0, 2)
    assert (await manager.expect("STATUS"))["STATUS"] == "Not serving: none of 2 acceptors runs"
    await asyncio.sleep(0.1)
    assert manager.waiting() == []  # a dozen times it could have said that it was alive
    service[0] = Service(2, 2)
    await manager.expect("WATCHDOG")
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    told.reloading()
    reloading = await manager.expect("RELOADING")
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    told.reloaded()
    await manager.expect("READY")
    told.stopping(30)
    stopping = await manager.expect("STOPPING")
    assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 30_000_000
    service[0] = Service(0, 2)
    await manager.expect("WATCHDOG")  # draining takes its time
    await told.hand_over(4711)
    assert await manager.expect("MAINPID") == {"MAINPID": "4711"}
    await asyncio.sleep(0.1)
    assert manager.waiting() == []


async def test_what_could_not_be_sent_is_sent_later(manager: NotifySocket) -> None:
    """A service manager that does not read for a while misses nothing that counts."""
    service = [Service(2, 2)]
    told = ServiceManager(Notifier(manager.address), 0.02, lambda: service[0])
    told.ready()
    filler = Notifier(manager.address)
    while filler.send(WATCHDOG=1):
        pass
    told.reloading()
    told.reloaded()
    service[0] = Service(1, 2)
    found = await manager.expect("STATUS")
    while found.get("STATUS") != "Serving with 1 of 2 acceptors":
        found = await manager.expect("STATUS")
    assert "RELOADING" not in found  # it is over by now
    told.close()


def passed(environment: dict[str, str], *sockets: socket.socket) -> Any:
    """What a process takes over that has `sockets` from descriptor 200 on, and what is left in its environment."""

    def take() -> Any:
        for index, sock in enumerate(sockets):
            os.dup2(sock.fileno(), 200 + index)
        own = {key: value.replace("PID", str(os.getpid())) for key, value in environment.items()}
        try:
            found = take_passed_sockets(own, 200)
        except UnusableSocket as error:
            return str(error)
        for each in found:
            assert each.sock.getblocking() is False
            assert os.get_inheritable(each.sock.fileno()) is False
        return [(each.name, each.address) for each in found], own

    return in_child(take)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def test_passed_sockets(listening: socket.socket) -> None:
    address = listening.getsockname()
    environment = {"LISTEN_PID": "PID", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "https", "PATH": "/bin"}
    found, left = passed(environment, listening, listening)
    assert found == [("https", address), ("descriptor 201", address)]
    assert left == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": "PID"},
        {"LISTEN_PID": "PID", "LISTEN_FDS": "many"},
    ],
)
def test_sockets_that_are_not_for_this_process(listening: socket.socket, environment: dict[str, str]) -> None:
    assert passed(environment, listening) == ([], {})


def test_what_is_no_listening_tcp_socket_is_refused(tmp_path: Path, listening: socket.socket) -> None:
    environment = {"LISTEN_PID": "PID", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "mine"}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert "mine" in passed(environment, sock) and "ListenStream=" in passed(environment, sock)
    with socket.socket() as sock:
        assert "does not listen" in passed(environment, sock)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        assert "not for TCP" in passed(environment, sock)
    with (tmp_path / "file").open("w") as file:
        assert "is no socket" in passed(environment, file)  # type: ignore[arg-type]
    assert "is no socket" in passed(environment)
    assert activation.FIRST == 3


async def test_who_has_taken_over_is_said_until_it_has_arrived(manager: NotifySocket) -> None:
    told = ServiceManager(Notifier(manager.address), 0.02, lambda: Service(2, 2))
    told.ready()
    filler = Notifier(manager.address)
    while filler.send(WATCHDOG=1):
        pass
    handing = asyncio.create_task(told.hand_over(4711))
    assert await manager.expect("MAINPID") == {"MAINPID": "4711"}
    await handing
    await told.settle()
    told.stopping(3)
    told.reloading()
    await asyncio.sleep(0.2)
    assert manager.waiting() == []


async def test_what_was_handed_over_is_taken_back(manager: NotifySocket) -> None:
    told = ServiceManager(Notifier(manager.address), 0.02, lambda: Service(2, 2))
    told.ready()
    await told.hand_over(4711)
    assert await manager.expect("MAINPID") == {"MAINPID": "4711"}
    told.take_back()
    assert await manager.expect("MAINPID") == {
        "MAINPID": str(os.getpid()),
        "STATUS": "Serving with 2 acceptors",
    }
    await manager.expect("WATCHDOG")
    told.close()
    told.take_back()  # nothing was
    await asyncio.sleep(0.1)
    assert not any("MAINPID" in each for each in manager.waiting())


async def test_without_a_service_manager_nobody_is_waited_for() -> None:
    told = ServiceManager(Notifier(""), 0.0, lambda: Service(2, 2))
    async with asyncio.timeout(1):
        await told.hand_over(4711)
        await told.settle()
    told.take_back()
