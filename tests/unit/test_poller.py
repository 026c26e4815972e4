"""The poller on real descriptors, in uvloop."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from symphony.relay.poller import Poller

LIMIT_S = 5.0


class Ground:
    """A poller in a running loop, with what its handlers raised."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.errors: list[BaseException] = []
        self.poller = Poller(loop, self.errors.append)

    def run(self, until: Callable[[], Any], limit_s: float = LIMIT_S) -> None:
        async def wait() -> None:
            deadline = time.monotonic() + limit_s
            while not until():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(wait())

    def turn(self, times: int = 5) -> None:
        """Let whatever is ready be handled."""

        async def wait() -> None:
            for _ in range(times):
                await asyncio.sleep(0.002)

        self.loop.run_until_complete(wait())


@pytest.fixture
def ground() -> Iterator[Ground]:
    loop = uvloop.new_event_loop()
    ground = Ground(loop)
    yield ground
    ground.poller.close()
    loop.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, two = socket.socketpair()
    one.setblocking(False)
    yield one, two
    one.close()
    two.close()


Pair = tuple[socket.socket, socket.socket]


def tcp_pair() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        two, _ = server.accept()
    one.setblocking(False)
    return one, two


def drain(sock: socket.socket) -> None:
    """Read all that is there."""
    with suppress(BlockingIOError):
        while sock.recv(1 << 20, socket.MSG_DONTWAIT):
            pass


def test_reader_is_called_while_there_is_something_to_read(ground: Ground, pair: Pair) -> None:
    one, two = pair
    got: list[bytes] = []
    ground.poller.add_reader(one.fileno(), lambda: got.append(one.recv(2)))
    ground.turn()
    assert got == []
    two.send(b"abcdef")
    ground.run(lambda: len(got) == 3)
    assert got == [b"ab", b"cd", b"ef"]
    ground.turn()
    assert len(got) == 3
    two.close()
    ground.run(lambda: got[-1] == b"")


def test_writer_is_called_while_there_is_room(ground: Ground, pair: Pair) -> None:
    one, two = pair
    calls = [0]

    def fill() -> None:
        calls[0] += 1
        try:
            while True:
                one.send(bytes(65536))
        except BlockingIOError:
            pass

    ground.poller.add_writer(one.fileno(), fill)
    ground.run(lambda: calls[0])
    ground.turn()
    assert calls[0] == 1  # full
    drain(two)
    ground.run(lambda: calls[0] == 2)
    ground.poller.remove_writer(one.fileno())
    drain(two)
    ground.turn()
    assert calls[0] == 2


def test_both_directions_and_a_change_of_handlers(ground: Ground, pair: Pair) -> None:
    one, two = pair
    seen: list[str] = []
    poller, fd = ground.poller, one.fileno()

    def read() -> None:
        one.recv(100)
        seen.append("read")
        poller.add_reader(fd, read_again)

    def read_again() -> None:
        one.recv(100)
        seen.append("read again")

    def write() -> None:
        seen.append("write")
        poller.remove_writer(fd)

    poller.add_reader(fd, read)
    poller.add_writer(fd, write)
    two.send(b"x")
    ground.run(lambda: len(seen) == 2)
    assert sorted(seen) == ["read", "write"]
    two.send(b"x")
    ground.run(lambda: seen[-1] == "read again")
    poller.remove_reader(fd)
    two.send(b"x")
    ground.turn()
    assert len(seen) == 3


def test_hang_up_calls_nobody_who_did_not_ask(ground: Ground, pair: Pair) -> None:
    """A descriptor without handlers is not in the set: it would be reported for ever."""
    one, two = pair
    calls: list[int] = []
    ground.poller.add_reader(one.fileno(), lambda: calls.append(1))
    ground.poller.remove_reader(one.fileno())
    two.close()
    ground.turn()
    assert calls == []
    ground.poller.add_reader(one.fileno(), lambda: calls.append(one.recv(1) == b""))
    ground.run(lambda: len(calls) > 2)  # level-triggered: again and again
    assert all(calls)


def test_reset_is_reported_to_a_reader(ground: Ground) -> None:
    """libuv drops a descriptor with an error on it, without a word."""
    one, two = tcp_pair()
    outcome: list[object] = []

    def read() -> None:
        try:
            outcome.append(one.recv(10))
        except OSError as error:
            outcome.append(type(error))
            ground.poller.forget(one.fileno())
            one.close()

    ground.poller.add_reader(one.fileno(), read)
    two.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    two.close()
    ground.run(lambda: outcome)
    assert outcome == [ConnectionResetError]


@pytest.mark.parametrize("end", ["close", "half-close", "reset"])
def test_hang_up_alone_is_watched_with_bytes_unread(ground: Ground, end: str) -> None:
    one, two = tcp_pair()
    calls: list[str] = []
    poller, fd = ground.poller, one.fileno()
    poller.watch_hangup(fd, lambda: calls.append("hang-up"))
    two.send(b"unread")
    ground.turn()
    assert calls == []
    if end == "half-close":
        two.shutdown(socket.SHUT_WR)
    else:
        if end == "reset":
            two.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        two.close()
    ground.run(lambda: len(calls) > 2)  # level-triggered, so that one before the watching counts too
    poller.unwatch_hangup(fd)
    calls.clear()
    ground.turn()
    assert calls == []
    one.close()
    two.close()


def test_from_reading_to_hang_up_and_back(ground: Ground) -> None:
    one, two = tcp_pair()
    seen: list[object] = []
    poller, fd = ground.poller, one.fileno()
    poller.add_reader(fd, lambda: seen.append(one.recv(100)))
    poller.add_writer(fd, lambda: (seen.append("room"), poller.remove_writer(fd)))
    poller.watch_hangup(fd, lambda: seen.append("hang-up"))
    two.send(b"one")
    ground.run(lambda: seen)
    ground.turn()
    assert seen == ["room"]
    poller.unwatch_hangup(fd)
    poller.unwatch_hangup(fd)
    poller.add_reader(fd, lambda: seen.append(one.recv(100)))
    ground.run(lambda: seen == ["room", b"one"])
    poller.watch_hangup(fd, lambda: seen.append("hang-up"))
    two.close()
    ground.run(lambda: seen[-1] == "hang-up")
    poller.forget(fd)
    one.close()
    seen.clear()
    ground.turn()
    assert seen == []


def test_failed_connect_is_reported_to_a_writer(ground: Ground) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    sock = socket.socket()
    sock.setblocking(False)
    codes: list[int] = []

    def connected() -> None:
        codes.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        ground.poller.remove_writer(sock.fileno())

    sock.connect_ex(address)
    ground.poller.add_writer(sock.fileno(), connected)
    ground.run(lambda: codes)
    sock.close()
    assert codes[0] != 0


def test_handler_that_raises_is_told_of_and_the_others_go_on(ground: Ground) -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    got: list[int] = []

    def handle(at: int) -> None:
        pairs[at][0].recv(10)
        if at == 1:
            raise RuntimeError("on purpose")
        got.append(at)

    for at, (one, two) in enumerate(pairs):
        ground.poller.add_reader(one.fileno(), lambda at=at: handle(at))  # type: ignore[misc]
        two.send(b"x")
    ground.run(lambda: len(got) == 2 and ground.errors)
    assert sorted(got) == [0, 2]
    assert [str(error) for error in ground.errors] == ["on purpose"]
    for one, two in pairs:
        ground.poller.remove_reader(one.fileno())
        one.close()
        two.close()


def test_event_for_a_number_that_was_used_again_is_passed_over(ground: Ground) -> None:
    """Both descriptors are ready in one batch; the handler of the first closes the second and reuses its number."""
    first, second, fresh = (socket.socketpair() for _ in range(3))
    numbers = {first[0].fileno(): "first", second[0].fileno(): "second"}
    called: list[str] = []
    poller = ground.poller
    extra: list[socket.socket] = []

    def handle(own: socket.socket, other: socket.socket) -> None:
        called.append(numbers[own.fileno()])
        number = other.fileno()
        poller.forget(number)
        other.close()
        os.dup2(fresh[0].fileno(), number)
        replacement = socket.socket(fileno=number)
        extra.append(replacement)
        poller.add_reader(number, lambda: called.append("replacement"))
        poller.remove_reader(own.fileno())

    for own, other in ((first, second), (second, first)):
        poller.add_reader(own[0].fileno(), lambda own=own, other=other: handle(own[0], other[0]))  # type: ignore[misc]
        own[1].send(b"x")
    ground.turn(20)
    assert called in (["first"], ["second"])  # the replacement has nothing to read
    fresh[1].send(b"x")
    ground.run(lambda: called[-1] == "replacement")  # and is watched all the same
    poller.remove_reader(extra[0].fileno())
    for sock in (*first, *second, *fresh, *extra):
        sock.close()


def test_forgetting_and_removing_what_is_not_watched(ground: Ground, pair: Pair) -> None:
    ground.poller.remove_reader(pair[0].fileno())
    ground.poller.remove_writer(pair[0].fileno())
    ground.poller.forget(pair[0].fileno())
    ground.poller.forget(12345)
    ground.turn()
    assert ground.errors == []


def test_more_descriptors_than_one_batch(ground: Ground) -> None:
    pairs = [socket.socketpair() for _ in range(300)]
    got: set[int] = set()

    def handle(at: int) -> None:
        pairs[at][0].recv(1)
        got.add(at)

    for at, (one, two) in enumerate(pairs):
        ground.poller.add_reader(one.fileno(), lambda at=at: handle(at))  # type: ignore[misc]
        two.send(b"x")
    ground.run(lambda: len(got) == 300)
    for one, two in pairs:
        ground.poller.forget(one.fileno())
        one.close()
        two.close()
    assert ground.errors == []


@pytest.mark.parametrize("step", [1, 50, 150])
def test_descriptors_of_any_number_are_served(ground: Ground, step: int) -> None:
    """The tables grow by descriptor, the last place in them included, and keep what they have."""
    heard: list[int] = []
    ends = []
    for number in range(300, 300 + 4 * step, step):
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        os.dup2(mine.fileno(), number)
        mine.close()
        ends.append((number, theirs))
    try:
        for number, theirs in ends:

            def hear(number: int = number) -> None:
                heard.append(number)
                ground.poller.remove_reader(number)

            ground.poller.add_reader(number, hear)
            theirs.send(b"x")
        ground.run(lambda: len(heard) == len(ends))
        assert sorted(heard) == [number for number, _ in ends]
    finally:
        for number, theirs in ends:
            ground.poller.forget(number)
            os.close(number)
            theirs.close()


def test_a_closed_socket_s_descriptor_is_nobody_s(ground: Ground) -> None:
    """-1 must not lead to the connection with the highest descriptor."""
    heard: list[int] = []
    for number in range(600, 740):  # one of them is in the last place, whatever the tables' size
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        os.dup2(mine.fileno(), number)
        mine.close()
        ground.poller.add_reader(number, lambda: heard.append(1))
        for act in (ground.poller.remove_reader, ground.poller.remove_writer, ground.poller.forget):
            act(-1)
        theirs.send(b"x")
        ground.run(lambda: heard)
        heard.clear()
        ground.poller.forget(number)
        os.close(number)
        theirs.close()
