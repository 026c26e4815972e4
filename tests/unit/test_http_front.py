"""The decisions of a plain HTTP listener, without any socket."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symphony.http.front import (
    MAX_HEAD,
    MAX_REQUESTS,
    Answer,
    Challenge,
    Decision,
    Ended,
    RequestFront,
)
from symphony.observe.reasons import Reason

CHALLENGE = b"/.well-known/acme-challenge/"
NOON = 1_700_000_000.0


def front(port: int = 443) -> RequestFront:
    return RequestFront(port, clock=lambda: NOON)


def decide(one: RequestFront, *pieces: bytes) -> list[Decision]:
    """All decisions on `pieces`, each received on its own."""
    found: list[Decision] = []
    for piece in pieces:
        if one.over:
            break
        one.receive(piece)
        while (decision := one.next()) is not None:
            found.append(decision)
    return found


def only(found: list[Decision]) -> Decision:
    assert len(found) == 1, found
    return found[0]


def answer_to(*pieces: bytes, port: int = 443) -> Answer:
    found = only(decide(front(port), *pieces))
    assert isinstance(found, Answer)
    return found


def read(data: bytes, method: bytes = b"GET") -> tuple[int, dict[bytes, bytes], bytes]:
    """Parse one response as a client does: status, fields, body."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    fields = dict(response.headers)
    assert len(fields) == len(response.headers)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert client.trailing_data[0] == b""
    return response.status_code, fields, body


def request(
    target: bytes = b"/", host: bytes = b"a.example", method: bytes = b"GET", more: bytes = b""
) -> bytes:
    return method + b" " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + more + b"\r\n"


# Redirects


@pytest.mark.parametrize(
    ("sent", "port", "location"),
    [
        (request(), 443, b"https://a.example/"),
        (request(b"/a/b?c=d&e", b"A.Example.:8080"), 443, b"https://a.example/a/b?c=d&e"),
        (request(), 8443, b"https://a.example:8443/"),
        (request(b"/x", b"[::1]:80"), 8443, b"https://[::1]:8443/x"),
        (request(b"/x", b"127.0.0.1:80"), 443, b"https://127.0.0.1/x"),
        (request(b"//b.example/x"), 443, b"https://a.example//b.example/x"),
        (request(b"http://b.example/x?y"), 443, b"https://b.example/x?y"),
        (request(b"HTTPS://b.example:444"), 443, b"https://b.example/"),
        (request(b"http://b.example?y"), 443, b"https://b.example/?y"),
        (request(b"http://b.example/", b"@@"), 443, b"https://b.example/"),
        (request(b"/%0d%0aX:y"), 443, b"https://a.example/%0d%0aX:y"),
        (CHALLENGE[:-1].join([b"GET ", b" HTTP/1.1\r\nHost: a\r\n\r\n"]), 443, b"https://a" + CHALLENGE[:-1]),
    ],
)
def test_redirects(sent: bytes, port: int, location: bytes) -> None:
    answer = answer_to(sent, port=port)
    status, fields, body = read(answer.data)
    assert (status, fields[b"location"], body) == (301, location, b"")
    assert fields[b"date"] == b"Tue, 14 Nov 2023 22:13:20 GMT"
    assert answer.reason is None
    assert not answer.close


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"BREW"])
def test_other_methods_keep_theirs(method: bytes) -> None:
    answer = answer_to(request(b"/x", method=method))
    assert read(answer.data)[0] == HTTPStatus.PERMANENT_REDIRECT
    assert not answer.close


def test_head_is_redirected_as_get() -> None:
    status, fields, _ = read(answer_to(request(b"/x", method=b"HEAD")).data, b"HEAD")
    assert (status, fields[b"location"]) == (301, b"https://a.example/x")


def test_an_asterisk_is_redirected_to_the_root() -> None:
    status, fields, _ = read(answer_to(request(b"*", method=b"OPTIONS")).data)
    assert (status, fields[b"location"]) == (308, b"https://a.example/")


@pytest.mark.parametrize(
    "more",
    [
        b"Content-Length: 3\r\n",
        b"Content-Length: 99999999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\nContent-Length: 5\r\n",
    ],
)
def test_a_body_is_not_read_and_ends_the_connection(more: bytes) -> None:
    one = front()
    found = only(
        decide(one, request(b"/x", method=b"POST", more=more) + b"GET / HTTP/1.1\r\nHost: b\r\n\r\n")
    )
    assert isinstance(found, Answer)
    status, fields, _ = read(found.data)
    assert (status, fields[b"connection"]) == (308, b"close")
    assert found.close
    assert one.over
    assert one.next() is None


@pytest.mark.parametrize(
    "more", [b"Content-Length: 0\r\n", b"Content-Length: 000\r\n", b"Expect: 100-continue\r\n"]
)
def test_a_body_of_nothing_is_none(more: bytes) -> None:
    assert not answer_to(request(b"/x", method=b"POST", more=more)).close


@pytest.mark.parametrize(
    "sent",
    [
        request(more=b"Connection: close\r\n"),
        b"GET / HTTP/1.0\r\nHost: a.example\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n",
    ],
)
def test_clients_that_want_one_answer_get_one(sent: bytes) -> None:
    answer = answer_to(sent)
    assert answer.close
    assert read(answer.data)[1][b"connection"] == b"close"


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"TLS/1.0"])
def test_an_upgrade_is_declined_by_a_redirect(upgrade: bytes) -> None:
    sent = request(more=b"Connection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n")
    found = decide(front(), sent, request(b"/2"))
    assert [read(each.data)[0] for each in found if isinstance(each, Answer)] == [301, 301]


def test_several_requests_on_one_connection() -> None:
    one = front()
    sent = b"".join(request(b"/%d" % at) for at in range(5)) + b"GET /5 HT"
    found = decide(one, sent)
    locations = [read(each.data)[1][b"location"] for each in found if isinstance(each, Answer)]
    assert locations == [b"https://a.example/%d" % at for at in range(5)]
    assert one.partial
    assert only(decide(one, b"TP/1.1\r\nHost: a\r\n\r\n"))
    assert not one.partial
    assert decide(one, b"") == [Ended()]
    assert one.over


def test_the_last_of_many_requests_ends_the_connection() -> None:
    one = front()
    closes = []
    for _ in range(MAX_REQUESTS):
        closes += [each.close for each in decide(one, request()) if isinstance(each, Answer)]
    assert closes == [False] * (MAX_REQUESTS - 1) + [True]


def test_last_is_the_last() -> None:
    one = front()
    one.receive(request() + request())
    one.last = True
    answer = one.next()
    assert isinstance(answer, Answer)
    assert answer.close
    assert one.next() is None


def test_a_client_that_sends_nothing() -> None:
    assert decide(front(), b"") == [Ended()]


# Refusals


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, Reason.HTTP_NO_HOST),
        (b"GET / HTTP/1.0\r\n\r\n", 400, Reason.HTTP_NO_HOST),
        (request(host=b""), 400, Reason.HTTP_NO_HOST),
        (request(b"http:///x"), 400, Reason.HTTP_NO_HOST),
        (request(host=b"a b"), 400, Reason.HTTP_BAD_HOST),
        (request(host=b"a/b"), 400, Reason.HTTP_BAD_HOST),
        (request(host=b"a.example:x"), 400, Reason.HTTP_BAD_HOST),
        (request(host=b"[::1%eth0]"), 400, Reason.HTTP_BAD_HOST),
        (request(host=b"a,b"), 400, Reason.HTTP_BAD_HOST),
        (request(b"http://user@a.example/"), 400, Reason.HTTP_BAD_HOST),
        (request(b"http://a.example\\b/"), 400, Reason.HTTP_BAD_HOST),
        (request(more=b"Host: b.example\r\n"), 400, Reason.HTTP_MALFORMED),
        (request(b"x"), 400, Reason.HTTP_MALFORMED),
        (request(b"/x#y"), 400, Reason.HTTP_MALFORMED),
        (request(b"ftp://a.example/"), 400, Reason.HTTP_MALFORMED),
        (request(b"a.example:443", method=b"CONNECT"), 400, Reason.HTTP_MALFORMED),
        (request(b"/a b"), 400, Reason.HTTP_MALFORMED),
        (request(b"/\xc3\xbc"), 400, Reason.HTTP_MALFORMED),
        (request(b"/\x00"), 400, Reason.HTTP_MALFORMED),
        (b"GET /\r\n\r\n", 400, Reason.HTTP_MALFORMED),
        (b"\r\n\r\n", 400, Reason.HTTP_MALFORMED),
        (b"get\r\n\r\n", 400, Reason.HTTP_MALFORMED),
        (request(more=b"Bad Name: x\r\n"), 400, Reason.HTTP_MALFORMED),
        (request(more=b"X : y\r\n"), 400, Reason.HTTP_MALFORMED),
        (request(more=b"X: \x00\r\n"), 400, Reason.HTTP_MALFORMED),
        (request(more=b"Content-Length: 1\r\nContent-Length: 2\r\n"), 400, Reason.HTTP_MALFORMED),
        (request(more=b"Content-Length: -1\r\n"), 400, Reason.HTTP_MALFORMED),
        (request(more=b"Transfer-Encoding: gzip\r\n"), 501, Reason.HTTP_MALFORMED),
        (request(more=b"X: " + b"y" * MAX_HEAD + b"\r\n"), 431, Reason.HTTP_HEAD_TOO_LONG),
        (b"GET /" + b"x" * MAX_HEAD, 431, Reason.HTTP_HEAD_TOO_LONG),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, Reason.HTTP_VERSION),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, Reason.HTTP_VERSION),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400, Reason.TLS_ON_PLAIN_PORT),
        (b"\x16\x03\x01\n\n", 400, Reason.TLS_ON_PLAIN_PORT),
        (b"\x00" * 30, 400, Reason.HTTP_MALFORMED),
        (request(CHALLENGE + b"x", method=b"POST"), 405, Reason.CHALLENGE_REFUSED),
        (request(CHALLENGE + b"x", more=b"Content-Length: 1\r\n") + b"x", 413, Reason.CHALLENGE_REFUSED),
        (request(CHALLENGE + b"x", more=b"Transfer-Encoding: chunked\r\n"), 413, Reason.CHALLENGE_REFUSED),
        (request(CHALLENGE + b"x", host=b"a@b"), 400, Reason.HTTP_BAD_HOST),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_refusals(sent: bytes, status: int, reason: Reason, at_once: bool) -> None:
    pieces = [sent] if at_once else [sent[at : at + 1] for at in range(len(sent))]
    one = front()
    found = only(decide(one, *pieces))
    assert isinstance(found, Answer)
    assert found.reason is reason
    code, fields, body = read(found.data)
    assert code == status
    assert fields[b"connection"] == b"close"
    assert body.startswith(b"%d %s" % (status, HTTPStatus(status).phrase.encode()))
    assert body.isascii()
    assert len(body) < 300
    assert found.close
    assert one.over
    assert (b"allow" in fields) == (status == 405)


def test_a_refused_head_has_no_body() -> None:
    data = answer_to(request(host=b"@", method=b"HEAD")).data
    assert data.endswith(b"\r\n\r\n")
    assert read(data, b"HEAD")[0] == 400


def test_a_bad_request_behind_a_head_is_answered_whole() -> None:
    found = decide(front(), request(method=b"HEAD") + b"nonsense\r\n\r\n")
    assert isinstance(found[1], Answer)
    assert read(found[1].data)[2].startswith(b"400 Bad Request")


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\n", request()[:-2]])
def test_a_client_that_ends_in_the_middle(sent: bytes) -> None:
    answer = answer_to(sent, b"")
    assert answer.reason is Reason.HTTP_ABANDONED
    assert read(answer.data)[0] == 400


def test_a_request_that_never_becomes_whole() -> None:
    one = front()
    assert decide(one, b"GET / HTTP/1.1\r\nHo") == []
    assert one.partial
    answer = one.refuse(HTTPStatus.REQUEST_TIMEOUT, Reason.HTTP_TIMEOUT, "secret")
    status, fields, body = read(answer.data)
    assert (status, fields[b"connection"]) == (408, b"close")
    assert b"secret" not in body
    assert one.over


def test_the_longest_head() -> None:
    sent = request(more=b"X: " + b"y" * (MAX_HEAD - len(request()) - 5) + b"\r\n")
    assert len(sent) == MAX_HEAD
    assert read(answer_to(sent).data)[0] == 301
    # Nothing is added up over the requests of a connection.
    assert [read(each.data)[0] for each in decide(front(), sent * 3) if isinstance(each, Answer)] == [301] * 3


# Challenges


def challenge(*pieces: bytes) -> Challenge:
    found = only(decide(front(), *pieces))
    assert isinstance(found, Challenge)
    return found


def sent_on(found: Challenge) -> bytes:
    return h11.Connection(h11.CLIENT).send(found.request)


def test_a_challenge_is_written_anew() -> None:
    found = challenge(
        request(
            CHALLENGE + b"tok-en_1",
            b"A.Example:80",
            more=b"user-agent: x\r\nAccept:  */*\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nTE: trailers\r\n"
            b"X-Forwarded-For: 6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\nx-real-ip: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n"
            b"Content-Length: 0\r\nX-Fold: a\r\n b\r\nUpgrade: h2c\r\nExpect: 100-continue\r\n",
        )
        + b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    assert found.name == b"a.example"
    assert sent_on(found) == (
        b"GET /.well-known/acme-challenge/tok-en_1 HTTP/1.1\r\nHost: a.example:80\r\nuser-agent: x\r\nAccept: */*\r\n"
        b"X-Fold: a b\r\nConnection: close\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("sent", "name", "host"),
    [
        (request(b"http://b.example:80" + CHALLENGE + b"x"), b"b.example", b"b.example:80"),
        (request(CHALLENGE + b"x", b"127.0.0.1"), None, b"127.0.0.1"),
        (request(CHALLENGE + b"x", b"[::1]:8"), None, b"[::1]:8"),
        (b"GET " + CHALLENGE + b"x HTTP/1.0\r\nHost: a\r\n\r\n", b"a", b"a"),
        (request(CHALLENGE + b"x", method=b"HEAD"), b"a.example", b"a.example"),
    ],
)
def test_whom_a_challenge_is_for(sent: bytes, name: bytes | None, host: bytes) -> None:
    found = challenge(sent)
    assert found.name == name
    assert dict(found.request.headers)[b"host"] == host
    assert found.request.target == CHALLENGE + b"x"
    assert found.request.http_version == b"1.1"


@pytest.mark.parametrize(
    "rest", [b"", b"x", b"a.txt", b"a/b", b"...", b"..a", b".a/b.", b"x?", b"x?a=b&c", b"a/?b"]
)
def test_what_is_a_challenge(rest: bytes) -> None:
    assert challenge(request(CHALLENGE + rest)).request.target == CHALLENGE + rest


@pytest.mark.parametrize(
    "target",
    [
        CHALLENGE + b"../admin",
        CHALLENGE + b"..",
        CHALLENGE + b"./x",
        CHALLENGE + b"a/../../../admin",
        CHALLENGE + b"..?x",
        CHALLENGE + b"%2e%2e/admin",
        CHALLENGE + b"..%2fadmin",
        CHALLENGE + b"..\\admin",
        CHALLENGE + b"..;/admin",
        CHALLENGE + b"x;y",
        CHALLENGE + b"x%00",
        CHALLENGE[:-1],
        CHALLENGE[:-1] + b"s/x",
        b"/x" + CHALLENGE + b"y",
        b"/" + CHALLENGE + b"y",
        b"/.WELL-KNOWN/acme-challenge/x",
    ],
)
def test_what_is_none_is_redirected(target: bytes) -> None:
    """No part of a service but the folder of challenges can be reached without TLS."""
    assert read(answer_to(request(target)).data)[0] == 301


def test_a_challenge_behind_redirects() -> None:
    one = front()
    found = decide(one, request() + request(CHALLENGE + b"x") + request())
    assert [type(each) for each in found] == [Answer, Challenge]
    refused = one.refuse(HTTPStatus.BAD_GATEWAY, Reason.UPSTREAM_REFUSED, "tcp://10.0.0.1:80: refused")
    status, fields, body = read(refused.data)
    assert (status, fields[b"connection"], body) == (502, b"close", b"502 Bad Gateway\n")
    assert refused.detail == "tcp://10.0.0.1:80: refused"
    assert one.next() is None


def test_a_refused_challenge_by_head_has_no_body() -> None:
    one = front()
    decide(one, request(CHALLENGE + b"x", method=b"HEAD"))
    refused = one.refuse(HTTPStatus.NOT_FOUND, Reason.UNKNOWN_HOST, "")
    assert read(refused.data, b"HEAD")[0] == 404
    assert refused.data.endswith(b"\r\n\r\n")


# Properties

WELL_FORMED = [
    request(),
    request(b"/x?y", b"b:80", b"POST"),
    request(b"http://c/x", method=b"HEAD"),
    request(more=b"Accept: */*\r\nCookie: a=b\r\n"),
    b"GET /old HTTP/1.0\r\nHost: d\r\n\r\n",
    request(CHALLENGE + b"x"),
    request(method=b"PUT", more=b"Content-Length: 2\r\n") + b"xy",
    request(host=b"@"),
    b"nonsense\r\n\r\n",
    b"\x16\x03\x01",
    b"PRI * HTTP/2.0\r\n\r\n",
]


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({min(place, len(data)) for place in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


def seen(found: list[Decision]) -> list[object]:
    return [sent_on(each) if isinstance(each, Challenge) else each for each in found]


def kind(found: list[object]) -> list[object]:
    """Without the texts: h11 finds other words for some mistakes when it sees less of them."""
    return [(each.reason, each.close, each.data[:12]) if isinstance(each, Answer) else each for each in found]


@given(
    st.lists(st.sampled_from(WELL_FORMED), min_size=1, max_size=6).map(b"".join),
    st.lists(st.integers(0, 600), max_size=20),
)
def test_how_bytes_are_cut_does_not_matter(data: bytes, cuts: list[int]) -> None:
    whole = kind(seen(decide(front(), data)))
    assert kind(seen(decide(front(), *cut(data, cuts)))) == whole
    assert kind(seen(decide(front(), *(data[at : at + 1] for at in range(len(data)))))) == whole


HOSTILE = st.lists(
    st.sampled_from(
        [
            b"GET",
            b" ",
            b"/",
            b"\r",
            b"\n",
            b"\r\n",
            b"HTTP/1.1",
            b"Host",
            b":",
            b"a",
            b"Location: x",
            b"\x00",
            b"\t",
            b"http://",
            b"@",
            b"#",
            b"%0d%0a",
            b"Content-Length: 3",
            b"Transfer-Encoding: chunked",
            CHALLENGE,
            b"\xff",
        ]
    )
    | st.binary(max_size=4),
    max_size=30,
).map(b"".join)


@settings(max_examples=300)
@given(st.sampled_from([b"", b"GET / HTTP/1.1\r\nHost: ", b"GET /", b"GET http://"]), HOSTILE, st.booleans())
def test_no_bytes_of_a_client_add_a_field_to_an_answer(start: bytes, rest: bytes, ends: bool) -> None:
    data = start + rest + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    found = decide(front(), data, *([b""] if ends else []))
    answered = {b"date", b"location", b"content-length", b"connection", b"content-type", b"allow"}
    for each in found:
        if isinstance(each, Answer):
            method = b"HEAD" if each.data.endswith(b"\r\n\r\n") else b"GET"
            status, fields, _ = read(each.data, method)
            assert fields.keys() <= answered
            if status in (301, 308):
                assert re.fullmatch(
                    rb"https://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])/[\x21-\x7e]*", fields[b"location"]
                )
        elif isinstance(each, Challenge):
            text = sent_on(each)
            assert text.count(b"\r\n\r\n") == 1
            assert text.endswith(b"\r\n\r\n")
            assert text.startswith((b"GET " + CHALLENGE, b"HEAD " + CHALLENGE))
