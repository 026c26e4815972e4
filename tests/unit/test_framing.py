from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.mailbox.framing import FrameDecoder, FrameError, encode_frame

MAX = 64
payloads = st.lists(st.binary(min_size=1, max_size=MAX), max_size=12)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(edges)]


@given(payloads)
def test_frames_that_arrive_whole(sent: list[bytes]) -> None:
    decoder = FrameDecoder(MAX)
    assert decoder.feed(b"".join(map(encode_frame, sent))) == sent
    assert decoder.pending == 0


@given(payloads, st.lists(st.integers(min_value=0), max_size=40))
def test_pieces_do_not_matter(sent: list[bytes], places: list[int]) -> None:
    decoder = FrameDecoder(MAX)
    got: list[bytes] = []
    for piece in cut(b"".join(map(encode_frame, sent)), places):
        got += decoder.feed(piece)
    assert got == sent
    assert decoder.pending == 0


@given(payloads)
def test_byte_by_byte(sent: list[bytes]) -> None:
    decoder = FrameDecoder(MAX)
    stream = b"".join(map(encode_frame, sent))
    assert [payload for byte in stream for payload in decoder.feed(bytes([byte]))] == sent


@given(payloads, st.binary(min_size=1, max_size=MAX), st.data())
def test_an_unfinished_frame_waits(sent: list[bytes], last: bytes, data: st.DataObject) -> None:
    frame = encode_frame(last)
    part = data.draw(st.integers(min_value=0, max_value=len(frame) - 1))
    decoder = FrameDecoder(MAX)
    assert decoder.feed(b"".join(map(encode_frame, sent)) + frame[:part]) == sent
    assert decoder.pending == part
    assert decoder.feed(b"") == []
    assert decoder.feed(frame[part:] + encode_frame(b"next")) == [last, b"next"]


@given(payloads, st.integers(min_value=MAX + 1, max_value=0xFFFF_FFFF) | st.just(0), st.binary(max_size=200))
def test_a_wrong_length_ends_the_stream(sent: list[bytes], length: int, rest: bytes) -> None:
    decoder = FrameDecoder(MAX)
    assert decoder.feed(b"".join(map(encode_frame, sent))) == sent
    with pytest.raises(FrameError, match=f"frame of {length} bytes"):
        decoder.feed(length.to_bytes(4, "big") + rest)
    with pytest.raises(FrameError, match=f"frame of {length} bytes"):
        decoder.feed(encode_frame(b"fine"))


@given(st.binary(max_size=300), st.lists(st.integers(min_value=0), max_size=10))
def test_garbage_gives_payloads_or_frame_error(data: bytes, places: list[int]) -> None:
    decoder = FrameDecoder(MAX)
    fed = 0
    got = 0
    try:
        for piece in cut(data, places):
            fed += len(piece)
            got += sum(4 + len(payload) for payload in decoder.feed(piece))
            assert got + decoder.pending == fed
            assert decoder.pending < 4 + MAX
    except FrameError:
        pass


def test_the_largest_frame_is_taken_and_one_byte_more_is_not() -> None:
    assert FrameDecoder(MAX).feed(encode_frame(b"x" * MAX)) == [b"x" * MAX]
    with pytest.raises(FrameError):
        FrameDecoder(MAX).feed(encode_frame(b"x" * (MAX + 1)))


def test_a_wrong_length_is_seen_before_its_payload() -> None:
    decoder = FrameDecoder(MAX)
    for byte in (MAX + 1).to_bytes(4, "big")[:3]:
        assert decoder.feed(bytes([byte])) == []
    with pytest.raises(FrameError):
        decoder.feed((MAX + 1).to_bytes(4, "big")[3:])


def test_an_announced_length_reserves_nothing() -> None:
    decoder = FrameDecoder(1 << 30)
    assert decoder.feed((1 << 30).to_bytes(4, "big") + b"x") == []
    assert decoder.pending == 5


def test_nothing_cannot_be_framed() -> None:
    with pytest.raises(FrameError):
        encode_frame(b"")
