"""What a new supervisor makes of the end of an exchange with the one in place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from symphony.api import takeover
from symphony.api.channel import Channel
from symphony.api.takeover import Predecessor, TakeoverFailed
from symphony.mailbox.address import RuntimeLock
from symphony.messages.succession import Offer, Prepared, Withdrawn


@pytest.fixture
def lock(tmp_path: Path) -> RuntimeLock:
    return RuntimeLock(str(tmp_path))  # not acquired: nobody looks at it here


def pair(lock: RuntimeLock) -> tuple[Channel, Predecessor]:
    theirs, ours = Channel.pair()
    offer = Offer(takeover.PROTOCOL, os.getppid(), "/nowhere", ())
    return theirs, Predecessor(Channel(ours), offer, lock, (), (), {})


@pytest.mark.parametrize("heard", [True, False], ids=["heard", "with a message unread"])
async def test_one_that_withdraws_is_not_taken_for_dead(
    lock: RuntimeLock, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    there, predecessor = pair(lock)
    if heard:
        await there.send(Withdrawn())
    else:
        # The kernel then tells of a reset first, and of what was said before it afterwards.
        await predecessor._channel.send(Prepared())
        await there.send(Withdrawn())
        there.close()
    with pytest.raises(TakeoverFailed):
        await predecessor.await_turn()
    # Not looked for, which takes its time: the one in place waits for the end of this process.
    monkeypatch.setattr(os, "getppid", lambda: 1 / 0)
    assert not await predecessor.is_dead()
    there.close()
    await predecessor.give_up("nothing")


async def test_one_that_withdraws_is_heard_by_who_gives_up(
    lock: RuntimeLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, predecessor = pair(lock)
    await there.send(Withdrawn())
    there.close()
    assert not await predecessor.give_up("told to stop")
    monkeypatch.setattr(os, "getppid", lambda: 1 / 0)
    assert not await predecessor.is_dead()


async def test_one_that_dies_without_a_word_is_dead(
    lock: RuntimeLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, predecessor = pair(lock)
    there.close()
    with pytest.raises(TakeoverFailed, match="did not give way"):
        await predecessor.await_turn()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert await predecessor.is_dead()
    await predecessor.give_up("nothing")
