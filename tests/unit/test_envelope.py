from __future__ import annotations

import typing
from types import UnionType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from supervisor import messages as supervisor_messages
from symphony.mailbox.envelope import PROTOCOL_VERSION, Envelope, EnvelopeDecoder, EnvelopeError, Refused
from symphony.messages import acceptor, limiter, registry, sampler
from symphony.messages.limiter import Acquire, Denied, Granted, LimiterReply, LimiterRequest

FIXED = b"\x94\x01\x01\xcb" + bytes(8)  # an array of four: version 1, id 1, deadline 0.0, and now the body


def encode(*fields: Any) -> bytes:
    return msgspec.msgpack.encode(fields)


def unions(module: Any, ending: str) -> list[Any]:
    return [value for name, value in vars(module).items() if name.endswith(ending)]


REPLIES = [
    union
    for module in (acceptor, limiter, registry, sampler, supervisor_messages)
    for union in unions(module, "Reply")
]


@given(
    st.integers(min_value=0, max_value=2**63),
    st.floats(allow_nan=False),
    st.text(),
    st.floats(allow_nan=False),
)
def test_what_is_sent_arrives(id: int, deadline: float, key: str, rate: float) -> None:
    sent = Envelope(PROTOCOL_VERSION, id, deadline, Acquire(key, rate, 1.0))
    assert EnvelopeDecoder(LimiterRequest).decode(msgspec.msgpack.encode(sent)) == sent


def test_there_are_reply_unions_to_check() -> None:
    assert len(REPLIES) >= 4


@pytest.mark.parametrize("union", REPLIES, ids=str)
def test_every_reply_union_can_refuse(union: UnionType) -> None:
    assert Refused in typing.get_args(union)
    refused = EnvelopeDecoder(union).decode(encode(PROTOCOL_VERSION, 7, 0.0, ("Refused", "no")))
    assert refused.body == Refused("no")


def test_a_request_is_no_reply() -> None:
    payload = msgspec.msgpack.encode(Envelope(PROTOCOL_VERSION, 1, 0.0, Granted()))
    assert EnvelopeDecoder(LimiterReply).decode(payload).body == Granted()
    with pytest.raises(EnvelopeError):
        EnvelopeDecoder(LimiterRequest).decode(payload)


def test_a_reply_of_another_shape_is_refused() -> None:
    assert EnvelopeDecoder(LimiterReply).decode(encode(1, 1, 0.0, ("D", 0.5))).body == Denied(0.5)
    with pytest.raises(EnvelopeError):
        EnvelopeDecoder(LimiterReply).decode(encode(1, 1, 0.0, ("D", "soon")))


def test_a_mailbox_may_have_a_single_message() -> None:
    decoder = EnvelopeDecoder(acceptor.DescribeAcceptor)
    assert decoder.decode(encode(1, 1, 0.0, ("DescribeAcceptor",))).body == acceptor.DescribeAcceptor()


@pytest.mark.parametrize(
    "body", [("A", "key", 1.0, 1.0), ("Unheard-of", 1), 5, None, {}], ids=lambda body: repr(body)
)
def test_another_version_is_said_to_be_one_whatever_its_body(body: Any) -> None:
    with pytest.raises(EnvelopeError, match="protocol version 2, this side speaks 1"):
        EnvelopeDecoder(LimiterRequest).decode(encode(2, 1, 0.0, body))


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"GET / HTTP/1.1\r\n\r\n",
        encode(),
        encode(1),
        encode(1, 1, 0.0),
        encode("1", 1, 0.0, ("Q",)),
        encode(1, -0.5, 0.0, ("Q",)),
        encode(1, 1, None, ("Q",)),
        encode(1, 1, 0.0, ("Z",)),
        encode(1, 1, 0.0, (1,)),
        encode(1, 1, 0.0, ("A", "key")),
        encode(1, 1, 0.0, ("A", 5, 1.0, 1.0)),
        encode(1, 1, 0.0, ("Q",)) + b"\x00",
        encode(1, 1, 0.0, ("Q",))[:-1],
        FIXED + b"\x94\xa1A\xa1\xff\xcb" + bytes(8) + b"\xcb" + bytes(8),
        FIXED + b"\x91" * 200_000,
        b"\x95" + FIXED[1:] + b"\x91\xa1Q" + b"\x91" * 200_000,
        FIXED + b"\xdd\xff\xff\xff\xff",
        FIXED + b"\xdf\xff\xff\xff\xff",
        FIXED + b"\xc6\xff\xff\xff\xff",
    ],
    ids=lambda payload: payload[:12].hex(),
)
def test_what_is_no_envelope(payload: bytes) -> None:
    with pytest.raises(EnvelopeError):
        EnvelopeDecoder(LimiterRequest).decode(payload)


@given(st.binary(max_size=200) | st.binary(max_size=100).map(FIXED.__add__))
def test_garbage_gives_an_envelope_or_envelope_error(payload: bytes) -> None:
    try:
        envelope = EnvelopeDecoder(LimiterRequest).decode(payload)
    except EnvelopeError:
        return
    assert isinstance(envelope.body, Struct)
    assert envelope.version == PROTOCOL_VERSION
