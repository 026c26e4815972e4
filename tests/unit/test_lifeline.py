"""The child's end of a lifeline, with the test as its supervisor."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from symphony.mailbox.framing import FrameDecoder, encode_frame
from symphony.mailbox.lifeline import (
    MAX_LIFELINE_FRAME,
    ChildBeat,
    ChildFailed,
    ChildMessage,
    ChildReady,
    Lifeline,
    SiblingDown,
    SiblingUp,
    StopChild,
    SupervisorMessage,
    decode_child,
    decode_supervisor,
    encode_lifeline,
)
from tests.support.forked import end, exit_code
from tests.support.loops import LIMIT_S, descriptors, eventually, on_both_loops


class Supervisor:
    """The other end, read when asked."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self.heard: list[ChildMessage] = []
        self.ended = False
        self._frames = FrameDecoder(MAX_LIFELINE_FRAME)

    def say(self, message: SupervisorMessage) -> None:
        self.sock.sendall(encode_lifeline(message))

    def listen(self) -> list[ChildMessage]:
        """Take what has arrived."""
        try:
            while not self.ended:
                data = self.sock.recv(1 << 16)
                self.ended = not data
                self.heard += [decode_child(payload) for payload in self._frames.feed(data)]
        except BlockingIOError:
            pass
        return self.heard

    def words(self) -> list[ChildMessage]:
        """What has arrived, without the beats."""
        return [message for message in self.listen() if not isinstance(message, ChildBeat)]


@asynccontextmanager
async def lifeline(
    prepare: Callable[[Lifeline], None] = lambda line: None, *, interval_s: float = 0.01, opened: bool = True
) -> AsyncIterator[tuple[Lifeline, Supervisor]]:
    ours, theirs = socket.socketpair()
    line = Lifeline(theirs, interval_s=interval_s)
    prepare(line)
    with ours:
        try:
            if opened:
                await line.open()
            yield line, Supervisor(ours)
        finally:
            await line.close()


@pytest.mark.parametrize("message", [ChildReady(), ChildBeat(7), ChildFailed("why")], ids=repr)
def test_what_a_child_may_say(message: ChildMessage) -> None:
    (payload,) = FrameDecoder(MAX_LIFELINE_FRAME).feed(encode_lifeline(message))
    assert decode_child(payload) == message
    with pytest.raises(msgspec.DecodeError):
        decode_supervisor(payload)


@pytest.mark.parametrize("message", [StopChild(1.5), SiblingDown("a", "b"), SiblingUp("a")], ids=repr)
def test_what_a_supervisor_may_say(message: SupervisorMessage) -> None:
    (payload,) = FrameDecoder(MAX_LIFELINE_FRAME).feed(encode_lifeline(message))
    assert decode_supervisor(payload) == message
    with pytest.raises(msgspec.DecodeError):
        decode_child(payload)


@on_both_loops
async def test_ready_is_said_once_and_beats_go_on() -> None:
    async with lifeline() as (line, supervisor):
        line.ready()
        await eventually(lambda: len(supervisor.listen()) >= 5, "beats")
        assert supervisor.words() == [ChildReady()]


@on_both_loops
async def test_the_interval_between_beats() -> None:
    async with lifeline(interval_s=0.1) as (_, supervisor):
        began = time.monotonic()
        await eventually(lambda: len(supervisor.listen()) >= 4, "beats")
        assert time.monotonic() - began >= 0.25


@on_both_loops
async def test_a_beat_tells_the_depth_of_now() -> None:
    depth = 3

    def prepare(line: Lifeline) -> None:
        line.depth = lambda: depth

    async with lifeline(prepare) as (_, supervisor):
        await eventually(lambda: ChildBeat(3) in supervisor.listen(), "the first depth")
        depth = 8
        await eventually(lambda: ChildBeat(8) in supervisor.listen(), "the second depth")


@on_both_loops
async def test_a_loop_that_stands_still_does_not_beat() -> None:
    async with lifeline() as (_, supervisor):
        await eventually(lambda: supervisor.listen(), "a beat")
        before = len(supervisor.listen())
        time.sleep(0.2)  # noqa: ASYNC251 - that is the point
        assert len(supervisor.listen()) == before
        await eventually(lambda: len(supervisor.listen()) > before, "beats again")


@on_both_loops
async def test_what_the_supervisor_says_reaches_its_hook_in_order() -> None:
    got: list[object] = []

    def prepare(line: Lifeline) -> None:
        line.on_stop = lambda grace: got.append(("stop", grace))
        line.on_sibling = lambda name, up: got.append((name, up))

    async with lifeline(prepare) as (_, supervisor):
        supervisor.say(SiblingDown("acceptor-1", "killed by SIGKILL"))
        supervisor.say(SiblingUp("acceptor-1"))
        for byte in encode_lifeline(StopChild(2.5)):
            supervisor.sock.send(bytes([byte]))
            await asyncio.sleep(0)
        await eventually(lambda: len(got) == 3, "three calls")
        assert got == [("acceptor-1", False), ("acceptor-1", True), ("stop", 2.5)]


@on_both_loops
async def test_a_child_without_hooks_ignores_what_is_said() -> None:
    async with lifeline() as (_, supervisor):
        for message in (SiblingDown("a", "b"), SiblingUp("a"), StopChild(1.0)):
            supervisor.say(message)
        before = len(supervisor.listen())
        await eventually(lambda: len(supervisor.listen()) > before + 2, "beats after it")


@on_both_loops
async def test_a_hook_that_fails_does_not_keep_the_next_one_from_being_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped: list[float] = []

    def prepare(line: Lifeline) -> None:
        line.on_sibling = lambda name, up: 1 / 0  # type: ignore[assignment, return-value]
        line.on_stop = stopped.append

    async with lifeline(prepare) as (_, supervisor):
        supervisor.say(SiblingUp("a"))
        supervisor.say(StopChild(1.0))
        await eventually(lambda: stopped == [1.0], "the second hook")
    assert "ZeroDivisionError" in caplog.text


@on_both_loops
async def test_a_supervisor_that_is_gone_orphans_the_child_once() -> None:
    orphaned: list[bool] = []

    def prepare(line: Lifeline) -> None:
        line.on_orphaned = lambda: orphaned.append(True)

    async with lifeline(prepare) as (line, supervisor):
        assert orphaned == []
        supervisor.sock.close()
        await eventually(lambda: orphaned == [True], "on_orphaned")
        line.ready()
        line.fail("too late")
        await asyncio.sleep(0.03)
    assert orphaned == [True]


@on_both_loops
async def test_what_was_said_before_the_supervisor_went_is_heard_first() -> None:
    got: list[str] = []

    def prepare(line: Lifeline) -> None:
        line.on_stop = lambda grace: got.append("stop")
        line.on_orphaned = lambda: got.append("orphaned")

    async with lifeline(prepare) as (_, supervisor):
        supervisor.say(StopChild(1.0))
        supervisor.sock.shutdown(socket.SHUT_WR)
        await eventually(lambda: len(got) == 2, "both")
    assert got == ["stop", "orphaned"]


@on_both_loops
async def test_closing_is_not_being_orphaned() -> None:
    orphaned: list[bool] = []

    def prepare(line: Lifeline) -> None:
        line.on_orphaned = lambda: orphaned.append(True)

    async with lifeline(prepare) as (line, supervisor):
        await line.close()
        supervisor.listen()
        assert supervisor.ended
        await line.close()
    assert orphaned == []


@on_both_loops
@pytest.mark.parametrize(
    "garbage",
    [bytes(4), b"\xff\xff\xff\xff", encode_frame(b"\xc1"), encode_lifeline(ChildReady())],
    ids=lambda garbage: garbage[:8].hex(),
)
async def test_a_supervisor_that_speaks_garbage_is_as_good_as_gone(
    garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    orphaned: list[bool] = []

    def prepare(line: Lifeline) -> None:
        line.on_orphaned = lambda: orphaned.append(True)

    async with lifeline(prepare) as (_, supervisor):
        supervisor.sock.send(garbage)
        await eventually(lambda: orphaned == [True], "on_orphaned")
    assert [record.levelname for record in caplog.records if "lifeline" in record.name] == ["ERROR"]


@on_both_loops
async def test_why_a_child_failed_is_told_before_it_closes() -> None:
    async with lifeline() as (line, supervisor):
        line.fail("certificate: no such file")
        await line.close()
        assert supervisor.words() == [ChildFailed("certificate: no such file")]
        assert supervisor.ended


@pytest.mark.parametrize("letter", ["x", "ü", "\N{SMILING FACE WITH OPEN MOUTH}"])
@on_both_loops
async def test_a_very_long_reason_is_cut_and_still_fits(letter: str) -> None:
    async with lifeline(opened=False) as (line, supervisor):
        line.fail(letter * 1_000_000)
        (failed,) = supervisor.words()
        assert isinstance(failed, ChildFailed)
        assert 1000 <= len(failed.reason) < 10_000
        assert set(failed.reason) == {letter}


@on_both_loops
async def test_a_child_whose_loop_never_starts_can_say_why() -> None:
    async with lifeline(opened=False) as (line, supervisor):
        line.ready()
        line.fail("no loop")
        assert supervisor.words() == [ChildReady(), ChildFailed("no loop")]


@on_both_loops
async def test_failing_without_a_supervisor_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with lifeline(opened=False) as (line, supervisor):
        supervisor.sock.close()
        line.fail("nobody hears it")
    assert "ChildFailed not told to the supervisor" in caplog.text


@on_both_loops
async def test_beats_do_not_pile_up_when_the_supervisor_does_not_read() -> None:
    beats = 0
    last: tuple[int, float] = (0, 0.0)

    def depth() -> int:
        nonlocal beats
        beats += 1
        return 0

    def pausing() -> bool:
        nonlocal last
        if last[0] != beats:
            last = (beats, time.monotonic())
        return time.monotonic() - last[1] > 0.2

    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    line = Lifeline(theirs, interval_s=0.0005)
    line.depth = depth
    with ours:
        await line.open()
        try:
            await eventually(pausing, "beats to be left out")
            before = beats
            Supervisor(ours).listen()
            await eventually(lambda: beats > before, "beats again")
            await eventually(pausing, "beats to be left out again")
        finally:
            began = time.monotonic()
            await line.close()
        assert time.monotonic() - began < LIMIT_S / 2, "closing waits for a supervisor that does not read"


@on_both_loops
async def test_no_descriptor_is_left() -> None:
    async def once(opened: bool) -> None:
        async with lifeline(opened=opened) as (line, _):
            line.ready()

    await once(True)
    baseline = descriptors()
    for number in range(200):
        await once(number % 2 == 0)
    await eventually(lambda: descriptors() <= baseline, "the descriptors to come back")


@on_both_loops
async def test_a_forked_child_notices_the_death_of_its_supervisor() -> None:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ours.close()
            code = _child(theirs)
        finally:
            os._exit(code)
    theirs.close()
    try:
        supervisor = Supervisor(ours)
        await eventually(lambda: ChildReady() in supervisor.listen(), "the child")
    except BaseException:
        end(pid)
        raise
    finally:
        ours.close()
    assert await exit_code(pid) == 0


def _child(sock: socket.socket) -> int:
    async def live() -> int:
        line = Lifeline(sock)
        orphaned = asyncio.Event()
        line.on_orphaned = orphaned.set
        await line.open()
        line.ready()
        async with asyncio.timeout(LIMIT_S):
            await orphaned.wait()
        await line.close()
        return 0

    with asyncio.Runner() as runner:
        return runner.run(live())
