"""What acceptors do with sockets that another generation of acceptors holds, too."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest

from symphony.connection.tenure import Stage as Turn
from symphony.connection.tenure import Tenure
from symphony.observe.counters import ACCEPTED, CounterPage
from tests.support.acceptor import LISTENER, AcceptorRig, complaints, snapshot, wait_until
from tests.support.actor_process import Stage
from tests.support.site import ended_by_reset
from tests.support.tls_client import connect

NOT_TLS = b"GET / HTTP/1.1\r\n\r\n"


@pytest.fixture
def rig(stage: Stage) -> Iterator[AcceptorRig]:
    rig = AcceptorRig(stage, snapshot())
    yield rig
    rig.close()


def ask(rig: AcceptorRig) -> socket.socket:
    """A connection that is answered by a reset as soon as an acceptor looks at it."""
    sock = connect(rig.port)
    sock.sendall(NOT_TLS)
    return sock


def waits(sock: socket.socket) -> bool:
    sock.settimeout(0.2)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    except ConnectionError:
        return False
    finally:
        sock.settimeout(10)
    return False


def test_one_that_is_awaited_touches_nothing_until_it_is_its_turn(rig: AcceptorRig) -> None:
    tenure = Tenure(1)
    process = rig.start(tenure=tenure)
    with ask(rig) as sock:
        assert waits(sock)
        assert not tenure.all_accept()
        tenure.stage = Turn.HOLDING
        assert ended_by_reset(sock)
        assert tenure.all_accept()
    process.ask_to_stop(1.0)
    assert process.wait_exit() == 0
    assert complaints(process) == []


@pytest.mark.parametrize("how", ["stop", "orphan", "kill"])
def test_one_that_is_awaited_leaves_no_trace_when_it_goes(rig: AcceptorRig, how: str) -> None:
    page = CounterPage([LISTENER])
    awaited = rig.start(tenure=Tenure(1), names=("acceptor-7",), pages=[page, *rig.pages])
    with ask(rig) as sock:
        assert waits(sock)
        if how == "kill":
            awaited.kill()
        else:
            awaited.ask_to_stop(1.0) if how == "stop" else awaited.orphan()
            assert awaited.wait_exit() == 0
        assert waits(sock)
        serving = rig.start()
        assert ended_by_reset(sock)
    with ask(rig) as sock:
        assert ended_by_reset(sock)
    assert (page.values[ACCEPTED], rig.total(ACCEPTED)) == (0, 2)
    assert complaints(serving) == []


@pytest.mark.parametrize("how", ["stop", "orphan"])
def test_what_was_passed_on_is_left_to_the_others(rig: AcceptorRig, how: str) -> None:
    tenure = Tenure(1, Turn.HOLDING)
    old = rig.start(tenure=tenure)
    old.signal(signal.SIGSTOP)
    with ask(rig) as sock:
        tenure.stage = Turn.PASSED_ON
        old.ask_to_stop(5.0) if how == "stop" else old.orphan()
        old.signal(signal.SIGCONT)
        assert old.wait_exit() == 0
        # It may have accepted before it read that it was to stop.
        if rig.total(ACCEPTED) == 0:
            assert waits(sock)
        new = rig.start()
        assert ended_by_reset(sock)
    with ask(rig) as sock:
        assert ended_by_reset(sock)
    assert rig.total(ACCEPTED) == 2
    assert complaints(new) == []


def test_fewer_acceptors_serve_all_sockets(stage: Stage) -> None:
    rig = AcceptorRig(stage, snapshot(), acceptors=5)
    try:
        names = rig.names[:2]
        processes = [rig.start(index, names=names, pages=rig.pages[:2]) for index in range(2)]
        socks = [ask(rig) for _ in range(40)]
        for sock in socks:
            assert ended_by_reset(sock)
            sock.close()
        assert all(page.values[ACCEPTED] for page in rig.pages[:2])
        for process in processes:
            process.ask_to_stop(1.0)
            assert process.wait_exit() == 0
        wait_until(lambda: refused(rig), "nobody listens")
    finally:
        rig.close()


def refused(rig: AcceptorRig) -> bool:
    try:
        connect(rig.port).close()
    except ConnectionRefusedError:
        return True
    return False
