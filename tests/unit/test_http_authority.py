"""Hosts as plain HTTP requests name them."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from symphony.http.authority import Authority, parse_authority


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"app.example", Authority("app.example", b"app.example", None)),
        (b"App.Example.:80", Authority("app.example", b"app.example", 80)),
        (b"app.example:", Authority("app.example", b"app.example", None)),
        (b"localhost:65535", Authority("localhost", b"localhost", 65535)),
        (b"my_app", Authority("my_app", b"my_app", None)),
        (b"127.0.0.1:8080", Authority("127.0.0.1", None, 8080)),
        (b"[::1]", Authority("[::1]", None, None)),
        (b"[2001:DB8:0::1]:443", Authority("[2001:db8::1]", None, 443)),
        (b"[::ffff:1.2.3.4]", Authority("[::ffff:102:304]", None, None)),
    ],
)
def test_hosts(written: bytes, expected: Authority) -> None:
    found = parse_authority(written)
    assert found is not None
    assert (found.name, found.port) == (expected.name, expected.port)
    assert found.host.replace("::ffff:1.2.3.4", "::ffff:102:304") == expected.host


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b":80",
        b".",
        b"a..example",
        b"a.example..",
        b"a" * 64,
        b".".join([b"a" * 63] * 4),
        b"user@a.example",
        b"a.example:0",
        b"a.example:65536",
        b"a.example:123456",
        b"a.example:80:80",
        b"a.example:+80",
        b"a.example: 80",
        b"a.example/",
        b"a.example\\",
        b"a.example?",
        b"a.example\r\nX: y",
        b"a.example\n",
        b"a example",
        b"a,b",
        b"b\xc3\xbccher.example",
        b"%61.example",
        b"::1",
        b"[::1",
        b"[::1]80",
        b"[::1]x:80",
        b"[::1%25lo]",
        b"[fe80::1%lo]",
        b"[]",
        b"[v1.x]",
        b"[127.0.0.1]",
        b"[::1\xe9]",
    ],
)
def test_everything_else_is_none(written: bytes) -> None:
    assert parse_authority(written) is None


@given(st.binary(max_size=80) | st.text("aA0.-_:[]%@/\r\n \t", max_size=40).map(str.encode))
@example(b"a\n")
@example(b"a.\n")
@example(b"a:80\n")
def test_nothing_that_is_returned_can_leave_its_place(written: bytes) -> None:
    found = parse_authority(written)
    if found is not None:
        assert re.fullmatch(rb"(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", found.render())
        assert parse_authority(found.render()) == found
