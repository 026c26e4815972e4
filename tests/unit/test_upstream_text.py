"""Upstreams as one word, read and written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symphony.config.model import TcpUpstream, UdsUpstream
from symphony.config.upstream_text import UpstreamTextError, parse_upstream


@pytest.mark.parametrize(
    ("text", "upstream"),
    [
        ("tcp://127.0.0.1:8080", TcpUpstream(host="127.0.0.1", port=8080)),
        ("tcp://[::1]:1", TcpUpstream(host="::1", port=1)),
        ("tcp://App.Example:65535", TcpUpstream(host="app.example", port=65535)),
        ("unix:/run/app.sock", UdsUpstream(path="/run/app.sock")),
        ("unix:app.sock", UdsUpstream(path="/here/app.sock")),
        ("unix:/with:colon//and/slash", UdsUpstream(path="/with:colon//and/slash")),
    ],
)
def test_what_names_an_upstream(text: str, upstream: TcpUpstream | UdsUpstream) -> None:
    assert parse_upstream(text, "/here") == upstream


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no upstream"),
        ("127.0.0.1:80", "expected tcp://HOST:PORT or unix:/PATH"),
        ("http://a:80", "no upstream"),
        ("TCP://a:80", "no upstream"),
        ("tcp://", "no port"),
        ("tcp://:80", "no port"),
        ("tcp://a", "no port"),
        ("tcp://a:", "for a port"),
        ("tcp://a:0", "for a port"),
        ("tcp://a:65536", "for a port"),
        ("tcp://a:-1", "for a port"),
        ("tcp://a:+1", "for a port"),
        ("tcp://a: 1", "for a port"),
        ("tcp://a:\u0661", "for a port"),
        ("tcp://::1:80", "in brackets"),
        ("tcp://[a]:80", "in brackets"),
        ("tcp://a b:80", "label"),
        ("tcp://a:80/path", "for a port"),
        ("unix:", "is empty"),
        ("unix:/" + 200 * "x", "at most 107"),
        ("unix:/a\0b", "not a file name"),
    ],
)
def test_what_names_none(text: str, says: str) -> None:
    with pytest.raises(UpstreamTextError) as error:
        parse_upstream(text, "/here")
    assert says in str(error.value)


_hosts = st.one_of(
    st.ip_addresses().map(str),
    st.from_regex(r"[a-z][a-z0-9]{0,10}(\.[a-z][a-z0-9]{0,5}){0,3}", fullmatch=True),
)


@settings(deadline=None)
@given(st.builds(TcpUpstream, host=_hosts, port=st.integers(1, 65535)))
def test_what_is_written_can_be_read(upstream: TcpUpstream) -> None:
    assert parse_upstream(upstream.label, "/here") == upstream


@settings(deadline=None)
@given(st.text(max_size=30).map(lambda text: f"tcp://{text}") | st.text(max_size=30))
def test_any_other_text_is_refused_in_one_line(text: str) -> None:
    try:
        parse_upstream(text, "/here")
    except UpstreamTextError as error:
        assert len(str(error).splitlines()) == 1
