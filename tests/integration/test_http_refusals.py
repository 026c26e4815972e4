"""Requests that are not passed on: what the client and the upstream get of them, and what they are counted as.

The rewriter's own tests go through everything that is refused (``tests/unit/test_http_head.py``); here it is what a
refusal does to the connection that it ends.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import msgspec
import pytest
from OpenSSL import SSL

from symphony.observe.reasons import Reason
from symphony.relay.http_rewriter import BAD_REQUEST, MAX_KEPT_BACK, MAX_UNANSWERED
from tests.support.acceptor import complaints, descriptors, rss_kib, wait_until
from tests.support.http_site import (
    GET,
    OK,
    SWITCHING,
    UPGRADE,
    HttpSite,
    ended,
    expect,
    http_site,
    named,
)
from tests.support.peers import Background, receive_all, receive_exactly

BAD = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For : 10.0.0.1\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"5\r\nhello\r\n"


@pytest.fixture(params=["uds", "tcp"], scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[HttpSite]:
    with http_site(request.param) as running:
        yield running


SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (BAD, Reason.HTTP_MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n X-Real-IP: c\r\n\r\n", Reason.HTTP_MALFORMED),
        (b"GET / HTTP/1.1\nHost: a\n\n", Reason.HTTP_MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\rX-JA3: b\r\n\r\n", Reason.HTTP_MALFORMED),
        (b"GET / HTTP/1.1\r\n\r\n", Reason.HTTP_MALFORMED),
        (b"\x16\x03\x01\0\0 rubbish\r\n\r\n", Reason.HTTP_MALFORMED),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n" + SMUGGLED,
            Reason.HTTP_AMBIGUOUS,
        ),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            + SMUGGLED,
            Reason.HTTP_AMBIGUOUS,
        ),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n" + SMUGGLED,
            Reason.HTTP_AMBIGUOUS,
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 90\r\n\r\n" + SMUGGLED, Reason.HTTP_AMBIGUOUS),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 10_000 + b"\r\n", Reason.HTTP_HEAD_TOO_LONG),
        (b"GET /" + b"a" * 40_000, Reason.HTTP_HEAD_TOO_LONG),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Reason.HTTP_VERSION),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: a\r\nUpgrade: b\r\n\r\n", Reason.HTTP_MALFORMED),
    ],
)
def test_a_first_request_that_is_refused(site: HttpSite, data: bytes, reason: Reason) -> None:
    """The client is told, the upstream sees nothing."""
    with site.refuses(reason), site.exchange() as (client, server):
        client.send(data)
        assert receive_all(client) == BAD_REQUEST
        client.end()
        assert receive_all(server) == b""


@pytest.mark.parametrize("together", [False, True])
def test_requests_before_it_are_answered_first(site: HttpSite, together: bool) -> None:
    """Whether they came in the same segment or not, and although the answers come late and in pieces."""
    with site.refuses(Reason.HTTP_MALFORMED), site.exchange() as (client, server):
        if together:
            client.send(GET + GET + BAD + GET)
        else:
            for part in (GET, GET, BAD[:20], BAD[20:] + GET):
                client.send(part)
        expect(server, named(GET) * 2)
        for at in range(len(OK)):
            server.send(OK[at : at + 1])
            expect(client, OK[at : at + 1])
        server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNK)
        expect(client, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNK)
        server.send(CHUNK + b"0\r\n")
        expect(client, CHUNK + b"0\r\n")
        server.send(b"\r\n")
        expect(client, b"\r\n" + BAD_REQUEST)
        assert ended(client)
        client.end()
        assert ended(server)


def test_never_inside_an_answer(site: HttpSite) -> None:
    """A body under way is no place for a response: the rest of it would be taken for something else."""
    body = random.Random(1).randbytes(2_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    with site.refuses(Reason.HTTP_MALFORMED), site.exchange(small=True) as (client, server):
        client.send(GET)
        expect(server, named(GET))
        server.send(head + body[:1000])
        expect(client, head + body[:1000])
        client.send(BAD)
        sending = Background(lambda: server.send(body[1000:]))
        assert receive_all(client) == body[1000:] + BAD_REQUEST
        sending.result()


def test_an_answer_that_lasts_to_the_end_leaves_no_place_for_it(site: HttpSite) -> None:
    """The client has what came, and sees that it is cut."""
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    with site.refuses(Reason.HTTP_MALFORMED), site.exchange(polite=False) as (client, server):
        client.send(GET)
        expect(server, named(GET))
        server.send(head + b"some")
        expect(client, head + b"some")
        client.send(BAD)
        assert not ended(client)


def test_an_answer_that_could_not_be_followed_leaves_no_place_for_it(site: HttpSite) -> None:
    with site.refuses(Reason.HTTP_MALFORMED), site.exchange(polite=False) as (client, server):
        client.send(GET)
        expect(server, named(GET))
        server.send(b"rubbish\r\n\r\n")
        expect(client, b"rubbish\r\n\r\n")
        client.send(BAD)
        assert not ended(client)


def test_an_upstream_that_ends_before_it_has_answered(site: HttpSite) -> None:
    with site.refuses(Reason.HTTP_MALFORMED), site.exchange() as (client, server):
        client.send(GET + BAD)
        expect(server, named(GET))
        server.end()
        assert ended(client)


# In the middle of a body


def test_a_chunk_that_is_none(site: HttpSite) -> None:
    """The upstream must not take the part that it has for the whole; the client is told."""
    with site.refuses(Reason.HTTP_MALFORMED), site.exchange() as (client, server):
        client.send(CHUNKED + CHUNK)
        expect(server, named(CHUNKED) + CHUNK)
        client.send(CHUNK + b"nonsense\r\n")
        assert receive_all(client) == BAD_REQUEST
        client.end()
        with suppress(ConnectionError):
            expect(server, CHUNK)
        if site.upstream.listening.family == socket.AF_UNIX:
            assert ended(server)  # it has no resets; the body lacks its last chunk
        else:
            assert not ended(server)


def test_trailers_that_would_frame_a_body(site: HttpSite) -> None:
    with site.refuses(Reason.HTTP_AMBIGUOUS), site.exchange() as (client, server):
        client.send(CHUNKED + CHUNK + b"0\r\n")
        expect(server, named(CHUNKED) + CHUNK + b"0\r\n")
        client.send(b"Content-Length: 5\r\n\r\n")
        assert receive_all(client) == BAD_REQUEST


def test_a_chunk_that_is_none_behind_other_requests(site: HttpSite) -> None:
    with site.refuses(Reason.HTTP_MALFORMED), site.exchange() as (client, server):
        client.send(GET + CHUNKED + CHUNK + b"nonsense\r\n")
        expect(server, named(GET) + named(CHUNKED) + CHUNK)
        server.send(OK)
        assert receive_all(client) == OK + BAD_REQUEST


def test_a_request_that_has_its_answer_gets_no_second_one(site: HttpSite) -> None:
    """An upstream may answer before it has read the body; the client would take another for its next request's."""
    answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"
    with site.refuses(Reason.HTTP_MALFORMED), site.exchange(polite=False) as (client, server):
        client.send(CHUNKED + CHUNK)
        expect(server, named(CHUNKED) + CHUNK)
        server.send(answer)
        expect(client, answer)
        client.send(b"nonsense\r\n")
        assert not ended(client)


def test_an_interim_answer_is_none(site: HttpSite) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    with site.refuses(Reason.HTTP_MALFORMED), site.exchange() as (client, server):
        client.send(CHUNKED)
        expect(server, named(CHUNKED))
        server.send(interim)
        expect(client, interim)
        client.send(b"nonsense\r\n")
        assert receive_all(client) == BAD_REQUEST


# Behind a request for another protocol


def test_what_was_kept_back_and_is_no_request(site: HttpSite) -> None:
    with site.refuses(Reason.HTTP_MALFORMED), site.exchange() as (client, server):
        client.send(UPGRADE + GET + BAD)
        expect(server, named(UPGRADE))
        server.send(OK)
        expect(server, named(GET))
        server.send(OK)
        assert receive_all(client) == OK + OK + BAD_REQUEST
        client.end()
        assert receive_all(server) == b""


def test_what_was_kept_back_of_a_client_that_has_ended(site: HttpSite) -> None:
    with site.refuses(Reason.HTTP_MALFORMED), site.exchange() as (client, server):
        client.send(UPGRADE + BAD)
        client.end()
        expect(server, named(UPGRADE))
        server.send(OK)
        assert receive_all(client) == OK + BAD_REQUEST


def test_the_same_bytes_are_right_where_the_protocol_has_changed(site: HttpSite) -> None:
    with site.in_order(), site.exchange() as (client, server):
        client.send(UPGRADE + BAD)
        expect(server, named(UPGRADE))
        server.send(SWITCHING)
        expect(client, SWITCHING)
        client.send(BAD)
        expect(server, BAD + BAD)


# Bounds


def test_too_many_requests_without_an_answer(site: HttpSite) -> None:
    with site.refuses(Reason.HTTP_AHEAD), site.exchange() as (client, server):
        sending = Background(lambda: client.send(GET * (MAX_UNANSWERED + 1)))
        expect(server, named(GET) * MAX_UNANSWERED)
        sending.result()
        server.send(OK * MAX_UNANSWERED)
        assert receive_all(client) == OK * MAX_UNANSWERED + BAD_REQUEST


def test_a_client_that_does_not_read_its_answers_is_told_behind_them(site: HttpSite) -> None:
    """The 400 waits for its place also when the sockets are full; OpenSSL must be given the same bytes again."""
    body = os.urandom(8 << 20)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with site.refuses(Reason.HTTP_MALFORMED), site.exchange(small=True) as (client, server):
        client.send(GET + BAD)
        expect(server, named(GET))
        sending = Background(lambda: server.send(answer))
        wait_until(lambda: blocked(site), "the acceptor sleeps")
        assert receive_all(client) == answer + BAD_REQUEST
        sending.result()


def blocked(site: HttpSite) -> bool:
    with open(f"/proc/{site.process.pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


def test_a_client_that_goes_on_sending_is_not_heard_for_long(site: HttpSite) -> None:
    """It gets its answer first: a reset for unread bytes would destroy that on the way."""
    with site.refuses(Reason.HTTP_MALFORMED), site.exchange(polite=False) as (client, server):
        client.send(BAD)
        assert receive_exactly(client, len(BAD_REQUEST)) == BAD_REQUEST
        began = time.monotonic()
        with suppress(SSL.Error, OSError):
            while time.monotonic() < began + 10:
                client.send(bytes(16384))
                time.sleep(0.001)
        assert 1.5 < time.monotonic() - began < 9
        assert receive_all(server) == b""


def test_a_client_that_resets_while_it_is_told(site: HttpSite) -> None:
    for _ in range(5):
        with site.exchange(polite=False) as (client, server):
            client.send(GET + BAD)
            expect(server, named(GET))
            client.sock.close()
            with suppress(ConnectionError):
                server.send(OK)
        wait_until(lambda: site.rig.active == 0, "it is over")
    assert complaints(site.process) == []


def test_an_upstream_that_is_full(site: HttpSite) -> None:
    """What was right before the request at fault is stuck: it goes on, and then the answers come."""
    body = random.Random(7).randbytes(12 << 20)
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    with site.refuses(Reason.HTTP_MALFORMED), site.exchange() as (client, server):
        sending = Background(lambda: client.send(post + body + BAD))
        wait_until(lambda: blocked(site), "the acceptor sleeps")
        expect(server, named(post) + body)
        sending.result()
        server.send(OK)
        assert receive_all(client) == OK + BAD_REQUEST


# What the log and the counters say


def test_the_log_says_what_was_wrong(site: HttpSite) -> None:
    deadline = time.monotonic() + 10
    while True:
        with site.refuses(Reason.HTTP_MALFORMED), site.exchange() as (client, _):
            client.send(BAD)
            assert receive_all(client) == BAD_REQUEST
            peer = f"127.0.0.1 {client.sock.getsockname()[1]}"
        lines = [msgspec.json.decode(line) for line in site.process.log().splitlines()]
        found = [line for line in lines if line.get("peer") == peer]
        if found:  # else too many lines were logged in this second
            assert found[0]["reason"] == "http_malformed"
            assert found[0]["detail"] == "whitespace between b'X-Forwarded-For ' and its colon"
            assert found[0]["id"]
            return
        assert time.monotonic() < deadline


# What it leaves behind


def test_nothing_is_left_behind(site: HttpSite) -> None:
    draw = random.Random(11)
    pool = [BAD, GET, UPGRADE, CHUNKED + CHUNK, b"nonsense\r\n", b"\0", b"GET / HTTP/1.1\r\n", SMUGGLED + BAD]
    wait_until(lambda: site.rig.active == 0, "all are over")
    open_before = descriptors(site.process.pid)

    def abuse(times: int) -> None:
        for _ in range(times):
            with site.exchange(polite=False) as (client, server), suppress(SSL.Error, OSError):
                client.send(b"".join(draw.choices(pool, k=draw.randrange(1, 5))))
                if draw.random() < 0.5:
                    server.send(draw.choice([OK, SWITCHING, b"rubbish", b"HTTP/1.1 200 OK\r\n\r\n"]))
                if draw.random() < 0.5:
                    client.end()
        wait_until(lambda: site.rig.active == 0, "all are over")

    abuse(150)
    memory = rss_kib(site.process.pid)
    abuse(200)
    wait_until(lambda: descriptors(site.process.pid) <= open_before, "the descriptors are back")
    assert rss_kib(site.process.pid) < memory + 2_500
    assert complaints(site.process) == []
    with site.in_order(), site.exchange() as (client, server):
        client.send(GET)
        expect(server, named(GET))
        server.send(OK)
        expect(client, OK)


def test_bytes_too_early_for_another_protocol(site: HttpSite) -> None:
    """More than is kept back stays in the socket; that costs nobody anything until the upstream has decided."""
    early = os.urandom(MAX_KEPT_BACK + 100_000)
    with site.in_order(), site.exchange() as (client, server):
        sending = Background(lambda: client.send(UPGRADE + early))
        expect(server, named(UPGRADE))
        server.send(SWITCHING)
        expect(server, early)
        sending.result()
        expect(client, SWITCHING)
