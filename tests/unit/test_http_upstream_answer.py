"""The answer to a challenge, followed to its end."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.http.upstream_answer import MAX_HEAD, AnswerError, UpstreamAnswer

BODY = b"token.thumbprint"
BY_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\nX-odd:  1\r\n\r\n" + BODY
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n" + BODY + b"\r\n0\r\nT: 1\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + BY_LENGTH
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.0 200 OK\r\n\r\n" + BODY


def answer(method: bytes = b"GET") -> UpstreamAnswer:
    headers = [(b"Host", b"a"), (b"Connection", b"close")]
    return UpstreamAnswer(h11.Request(method=method, target=b"/x", headers=headers))


def test_the_request() -> None:
    assert answer().request_bytes == b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("data", [BY_LENGTH, CHUNKED, INTERIM, EMPTY])
@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("surplus", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
def test_passed_on_byte_for_byte_to_its_end(data: bytes, step: int, surplus: bytes) -> None:
    one = answer()
    passed = b""
    sent = data + surplus
    for at in range(0, len(sent), step):
        if one.complete:
            break
        passed += one.receive(sent[at : at + step])
    assert one.complete
    assert passed == data


@pytest.mark.parametrize("step", [1, 10_000])
def test_an_answer_that_ends_with_the_connection(step: int) -> None:
    one = answer()
    passed = b"".join(one.receive(UNTIL_CLOSE[at : at + step]) for at in range(0, len(UNTIL_CLOSE), step))
    assert not one.complete
    passed += one.receive(b"")
    assert one.complete
    assert passed == UNTIL_CLOSE


def test_head_has_no_body() -> None:
    one = answer(b"HEAD")
    head = BY_LENGTH.removesuffix(BODY)
    assert one.receive(head) == head
    assert one.complete


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nConte",
        b"SSH-2.0-x\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",  # a TLS alert: the upstream does TLS itself
        b"<html>\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD * 2,
    ],
)
def test_what_is_no_answer_is_not_passed_on(data: bytes) -> None:
    one = answer()
    passed = b""
    with pytest.raises(AnswerError):
        for piece in (data, b""):
            passed += one.receive(piece)
    assert passed == b""


@pytest.mark.parametrize("data", [BY_LENGTH[:-1], CHUNKED[:-3]])
def test_an_answer_cut_short_is_told_from_a_whole_one(data: bytes) -> None:
    one = answer()
    assert one.receive(data) == data
    with pytest.raises(AnswerError):
        one.receive(b"")
    assert not one.complete


@given(
    st.lists(st.binary(max_size=20) | st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"\r\n", CHUNKED, BY_LENGTH]))
)
def test_nothing_is_invented(pieces: list[bytes]) -> None:
    one = answer()
    passed = b""
    fed = b""
    try:
        for piece in filter(None, pieces):
            fed += piece
            passed += one.receive(piece)
            if one.complete:
                break
    except AnswerError:
        pass
    assert fed.startswith(passed)
