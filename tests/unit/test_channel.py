"""The connection between two supervisors: messages, descriptors, and what is not understood."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from symphony.api.channel import MOST_DESCRIPTORS, Channel, ChannelBroken
from symphony.messages.succession import (
    Draining,
    Failed,
    Left,
    Offer,
    OfferedListener,
    Prepared,
    Sockets,
    Yours,
    decode_succession,
    encode_succession,
)


def pair() -> tuple[Channel, Channel]:
    ours, theirs = Channel.pair()
    return ours, Channel(theirs)


async def test_messages_arrive_whole_and_in_order() -> None:
    one, other = pair()
    offer = Offer(1, 7, "/run/x", (OfferedListener("127.0.0.1:1", "127.0.0.1:1", 3),) * 200)
    sent = [offer, Prepared(), Failed("why\nnot" * 1000, True), Draining((Left(7, 3),)), Yours()]
    for message in sent:
        await one.send(message)
    assert [(await other.receive())[0] for _ in sent] == sent
    one.close()
    with pytest.raises(ChannelBroken, match="is gone"):
        await other.receive()
    with pytest.raises(ChannelBroken, match="is gone"):
        await other.send(Prepared())
    other.close()


async def test_descriptors_come_along_and_are_closed_by_an_exec() -> None:
    one, other = pair()
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(MOST_DESCRIPTORS)]
    await one.send(Sockets(), opened)
    await one.send(Prepared())
    message, received = await other.receive()
    assert (message, len(received)) == (Sockets(), MOST_DESCRIPTORS)
    assert not any(map(os.get_inheritable, received))
    assert set(received).isdisjoint(opened)
    assert (await other.receive()) == (Prepared(), [])
    for descriptor in (*opened, *received):
        os.close(descriptor)
    one.close()
    other.close()


async def test_a_reader_that_takes_its_time_is_waited_for() -> None:
    one, other = pair()
    many = [Failed("x" * 10_000) for _ in range(100)]

    async def send(part: list[Failed]) -> None:
        for message in part:
            await one.send(message)

    sending = [asyncio.create_task(send(many[:50])), asyncio.create_task(send(many[50:]))]
    await asyncio.sleep(0.05)
    assert not all(task.done() for task in sending)
    assert [(await other.receive())[0] for _ in many] == many
    await asyncio.gather(*sending)
    one.close()
    other.close()


@pytest.mark.parametrize(
    "packet", [b"{", b"[]", b'{"type": "Else"}', b'{"type": "Left", "pid": 1}', b"\xff" * 50]
)
async def test_what_is_not_understood_ends_it_and_leaves_nothing_open(packet: bytes) -> None:
    ours, theirs = Channel.pair()
    before = len(os.listdir("/proc/self/fd"))
    descriptor = os.open("/dev/null", os.O_RDONLY)
    socket.send_fds(theirs, [packet], [descriptor])
    os.close(descriptor)
    with pytest.raises(ChannelBroken, match="not understood"):
        await ours.receive()
    assert len(os.listdir("/proc/self/fd")) == before
    ours.close()
    theirs.close()


async def test_a_message_that_is_too_long_is_not_taken_for_a_part_of_it() -> None:
    ours, theirs = Channel.pair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    theirs.send(encode_succession(Failed("x" * (1 << 17))))
    with pytest.raises(ChannelBroken, match="cut off"):
        await ours.receive()
    ours.close()
    theirs.close()


def test_a_later_version_may_say_more() -> None:
    said = encode_succession(Draining((Left(7, 3),))).replace(b'"pid":7', b'"pid":7,"since":12')
    assert decode_succession(said) == Draining((Left(7, 3),))
