"""The one stream of events that is made from those of all acceptors."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

import symphony.api.events
from symphony.api.events import EventFeed, SubscriberTooSlow, Subscription
from symphony.mailbox.address import RuntimeLock
from symphony.messages.events import Blocked, Event, Released, Suspended
from tests.support.acceptor_stand_in import PAGE, AcceptorStandIn, suspended
from tests.support.loops import eventually, on_both_loops
from tests.support.mailbox import live_runtime_dir

BLOCKED = Blocked("127.0.0.1:443", "192.0.2.1", "rate_limited", "", "", "", 0)


@pytest.fixture
def runtime_dir() -> Iterator[str]:
    with live_runtime_dir() as path:
        yield path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LOOK_EVERY_S", 0.02), ("ENDED_AFTER_S", 0.1), ("_ASK_AGAIN_S", 0.02)):
        monkeypatch.setattr(symphony.api.events, name, value)


class Reader:
    """Reads a subscription to its end, for as long as it may."""

    def __init__(self, subscription: Subscription) -> None:
        self.events: list[Event] = []
        self.ended = False
        self.subscription = subscription
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for event in self.subscription:
            self.events.append(event)
        self.ended = True

    @property
    def ids(self) -> list[str]:
        """The held and the released, in the order in which they were told."""
        return [
            event.id if isinstance(event, Suspended) else f"{event.id} {event.how}"
            for event in self.events
            if isinstance(event, Suspended | Released)
        ]


class Scene:
    def __init__(self, runtime_dir: str) -> None:
        self.runtime_dir = runtime_dir
        self.feed = EventFeed(runtime_dir)
        self.acceptors: list[AcceptorStandIn] = []

    async def acceptor(self, number: int = 0, *ids: str) -> AcceptorStandIn:
        """Start one that holds `ids`."""
        stand_in = AcceptorStandIn(self.runtime_dir, f"acceptor-{number}")
        stand_in.hold(*ids)
        await stand_in.mailbox.start()
        self.acceptors.append(stand_in)
        return stand_in

    async def heard(self, count: int = 1) -> None:
        """Wait until so many acceptors are heard."""
        await eventually(lambda: self.feed.connected == count, f"{count} acceptors are heard")


@asynccontextmanager
async def scene_of(runtime_dir: str) -> AsyncIterator[Scene]:
    before = sockets()
    scene = Scene(runtime_dir)
    try:
        yield scene
    finally:
        await scene.feed.close()
        for acceptor in scene.acceptors:
            await acceptor.mailbox.close()
    await eventually(lambda: sockets() <= before, "all sockets are closed")


def sockets() -> int:
    """How many this process has open; event loops open other descriptors when they first need them."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            found += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
    return found


@on_both_loops
async def test_all_acceptors_are_heard_in_one_stream(runtime_dir: str) -> None:
    async with scene_of(runtime_dir) as scene:
        first, second = await scene.acceptor(0), await scene.acceptor(1)
        scene.feed.start()
        await scene.heard(2)
        reader = Reader(scene.feed.subscribe())
        first.hold("a", "b")
        first.tell(BLOCKED)
        first.release("a", "left")
        second.hold("c")
        await eventually(lambda: len(reader.events) == 5, "all is heard")
        of_first = [event for event in reader.events if event != suspended("c")]
        assert of_first == [suspended("a"), suspended("b"), BLOCKED, Released("a", "left")]
        assert list(scene.feed.held) in (["b", "c"], ["c", "b"])


@on_both_loops
async def test_what_is_held_already_comes_first_and_once(runtime_dir: str) -> None:
    """Over several pages, with news of the same connections in between."""
    async with scene_of(runtime_dir) as scene:
        ids = [f"id{number}" for number in range(4 * PAGE + 1)]
        acceptor = await scene.acceptor(0, *ids)
        reader = Reader(scene.feed.subscribe())
        scene.feed.start()
        await eventually(lambda: acceptor.subscribers, "it has subscribed")
        for id in ids[-4:]:
            acceptor.tell(suspended(id))  # as if it had begun to be held just now
        acceptor.release(ids[-1], "forwarded")
        await scene.heard()
        acceptor.hold("last")
        await eventually(lambda: "last" in reader.ids, "all is heard")
        assert sorted(name for name in reader.ids if " " not in name) == sorted([*ids, "last"])
        assert reader.ids.count(f"{ids[-1]} forwarded") == 1
        assert set(scene.feed.held) == {*ids[:-1], "last"}
        late = Reader(scene.feed.subscribe())
        acceptor.hold("news")
        await eventually(lambda: "news" in late.ids, "the late one hears, too")
        assert set(late.ids[:-1]) == {*ids[:-1], "last"} and late.ids[-1] == "news"


@on_both_loops
async def test_a_restarted_acceptor_has_lost_what_it_held(runtime_dir: str) -> None:
    async with scene_of(runtime_dir) as scene:
        acceptor, other = await scene.acceptor(0, "a", "b"), await scene.acceptor(1, "c")
        scene.feed.start()
        await scene.heard(2)
        reader = Reader(scene.feed.subscribe())
        await eventually(lambda: len(reader.events) == 3, "what is held is heard")
        await acceptor.die()
        await scene.heard(1)
        assert len(reader.events) == 3
        await scene.acceptor(0, "d")
        await eventually(lambda: len(reader.events) == 6, "news")
        assert reader.ids[3:] == ["d", "a gone", "b gone"]
        assert sorted(scene.feed.held) == ["c", "d"]
        other.release("c", "expired")
        await eventually(lambda: reader.ids[-1] == "c expired", "the other was heard all the time")


@on_both_loops
async def test_a_lost_connection_alone_loses_nothing(runtime_dir: str) -> None:
    """What has gone meanwhile is told as gone; the rest is not told again."""
    async with scene_of(runtime_dir) as scene:
        acceptor = await scene.acceptor(0, "a", "b")
        scene.feed.start()
        await scene.heard()
        reader = Reader(scene.feed.subscribe())
        for _ in range(3):
            acceptor.cut_off()
            await scene.heard(0)
            await scene.heard()
        acceptor.cut_off()
        acceptor.release("a", "forwarded")
        acceptor.hold("c")
        await eventually(lambda: len(reader.events) == 4, "news")
        assert reader.ids == ["a", "b", "c", "a gone"]


@on_both_loops
async def test_an_acceptor_that_does_not_come_back(runtime_dir: str) -> None:
    async with scene_of(runtime_dir) as scene:
        acceptor = await scene.acceptor(0, "a")
        scene.feed.start()
        await scene.heard()
        reader = Reader(scene.feed.subscribe())
        symphony.api.events.GONE_AFTER_S, before = 0.1, symphony.api.events.GONE_AFTER_S
        try:
            await acceptor.die()
            await eventually(lambda: reader.ids == ["a", "a gone"], "its connection is gone")
        finally:
            symphony.api.events.GONE_AFTER_S = before
        assert dict(scene.feed.held) == {}
        again = await scene.acceptor(0, "b")
        await eventually(lambda: reader.ids[2:] == ["b"], "it is back after all")
        again.release("b", "left")
        await eventually(lambda: reader.ids[3:] == ["b left"], "and heard")


@on_both_loops
async def test_acceptors_come_and_go(runtime_dir: str) -> None:
    async with scene_of(runtime_dir) as scene:
        scene.feed.start()
        reader = Reader(scene.feed.subscribe())
        first = await scene.acceptor(0, "a")
        await scene.heard(1)
        second = await scene.acceptor(7, "b")
        await scene.heard(2)
        first.release("a", "aborted")  # as one that stops in order says
        await first.mailbox.close()
        await scene.heard(1)
        await second.mailbox.close()  # one that forgets to
        await eventually(lambda: len(reader.events) == 4, "all is told")
        assert reader.ids == ["a", "b", "a aborted", "b gone"]
        (await scene.acceptor(3)).hold("c")
        await eventually(lambda: reader.ids[-1] == "c", "a new one is heard")


@on_both_loops
async def test_an_acceptor_that_refuses_is_asked_again(runtime_dir: str) -> None:
    async with scene_of(runtime_dir) as scene:
        acceptor = await scene.acceptor(0, "a")
        acceptor.deaf = True
        scene.feed.start()
        await asyncio.sleep(0.1)
        assert scene.feed.connected == 0
        acceptor.deaf = False
        await scene.heard()
        assert list(scene.feed.held) == ["a"]


@on_both_loops
async def test_who_does_not_read_is_dropped_and_told(
    runtime_dir: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene_of(runtime_dir) as scene:
        acceptor = await scene.acceptor(0, *(f"h{number}" for number in range(20)))
        scene.feed.start()
        await scene.heard()
        slow, good = scene.feed.subscribe(limit=10), Reader(scene.feed.subscribe(limit=1000))
        for _ in range(10):
            acceptor.tell(BLOCKED)
        await eventually(lambda: len(good.events) == 30, "the other reads")
        # What was held at the beginning does not count, and ten may wait.
        assert await anext(slow) == suspended("h0")
        with caplog.at_level(logging.WARNING):
            acceptor.tell(BLOCKED)
            await eventually(lambda: len(good.events) == 31, "the other reads on")
        assert "10 events waited" in caplog.text
        for _ in range(2):
            with pytest.raises(SubscriberTooSlow, match="10 events waited"):
                await anext(slow)
        acceptor.tell(BLOCKED)
        await eventually(lambda: len(good.events) == 32, "and on")


@on_both_loops
async def test_the_stream_ends_with_the_instance(runtime_dir: str) -> None:
    async with scene_of(runtime_dir) as scene:
        lock = RuntimeLock(runtime_dir)
        acceptor = await scene.acceptor(0, "a")
        scene.feed.start()
        await scene.heard()
        reader = Reader(scene.feed.subscribe())
        await acceptor.mailbox.close()
        await eventually(lambda: reader.ids == ["a", "a gone"], "the acceptor is gone")
        await asyncio.sleep(0.3)
        assert not reader.ended  # the instance still runs
        shutil.rmtree(runtime_dir)
        await eventually(lambda: reader.ended, "the stream has ended")
        assert [event async for event in scene.feed.subscribe()] == []
        assert lock.fileno() == -1


@on_both_loops
async def test_closing_ends_every_subscription(runtime_dir: str) -> None:
    async with scene_of(runtime_dir) as scene:
        acceptor = await scene.acceptor(0, "a")
        async with scene.feed as feed:
            await scene.heard()
            readers = [Reader(feed.subscribe()) for _ in range(3)]
            await eventually(lambda: all(reader.events for reader in readers), "all have read")
            readers[0].subscription.close()
            acceptor.hold("b")
            await eventually(lambda: readers[1].ids == ["a", "b"], "the others read on")
        await asyncio.gather(*(reader.task for reader in readers))
        assert [reader.ids for reader in readers[:2]] == [["a"], ["a", "b"]]  # nothing has become of them
        await feed.close()


def test_nothing_waits_for_ever_where_nothing_runs(tmp_path: object) -> None:
    async def read() -> list[Event]:
        async with EventFeed(f"{tmp_path}/nowhere") as feed:
            return [event async for event in feed.subscribe()]

    assert asyncio.run(asyncio.wait_for(read(), 10)) == []
