"""The ClientHello parser against real clients, broken input and fuzzed input."""

from __future__ import annotations

import struct
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symphony.tls.client_hello import (
    MAX_MESSAGE,
    MAX_STREAM,
    ClientHello,
    ClientHelloError,
    Incomplete,
    MalformedClientHello,
    OversizedClientHello,
    parse,
)
from tests.support.client_hellos import CLIENTS, HOST_NAME, capture

captured = cache(capture)


def vector(width: int, content: bytes) -> bytes:
    return len(content).to_bytes(width, "big") + content


def extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2, "big") + vector(2, body)


def server_name(*names: tuple[int, bytes]) -> bytes:
    return extension(0, vector(2, b"".join(bytes([kind]) + vector(2, name) for kind, name in names)))


def body(
    extensions: bytes | None = b"",
    session_id: bytes = b"s" * 32,
    ciphers: bytes = b"\x13\x01\x13\x02",
    compression: bytes = b"\0",
) -> bytes:
    head = b"\x03\x03" + b"r" * 32 + vector(1, session_id) + vector(2, ciphers) + vector(1, compression)
    return head if extensions is None else head + vector(2, extensions)


def message(content: bytes, kind: int = 1) -> bytes:
    return bytes([kind]) + vector(3, content)


def records(content: bytes, size: int = 16384) -> bytes:
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(b"\x16\x03\x01" + vector(2, part) for part in parts)


def hello(extensions: bytes | None = b"") -> bytes:
    return records(message(body(extensions)))


def parsed(data: bytes) -> ClientHello:
    result = parse(data)
    assert isinstance(result, ClientHello)
    return result


def outcome(data: bytes) -> str:
    """Name what becomes of `data`; anything that is not documented fails the test by itself."""
    try:
        result = parse(data)
    except ClientHelloError as error:
        assert error.reason in {"not_tls", "malformed_client_hello", "oversized_client_hello"}
        return error.reason
    if isinstance(result, Incomplete):
        assert len(data) < result.needed <= MAX_STREAM
        return "incomplete"
    for name in ("alpn", "supported_versions", "groups", "point_formats", "signature_algorithms"):
        try:
            getattr(result, name)
        except MalformedClientHello:
            pass
    assert len(result.extensions) == len(result.extension_ids)
    assert result.cipher_suites
    return "hello"


@pytest.mark.parametrize("client", CLIENTS)
def test_real_client(client: str) -> None:
    data = captured(client)
    found = parsed(data)
    assert found.server_name == (None if client == "openssl_no_name" else HOST_NAME.encode())
    assert found.legacy_version == 0x0303
    assert found.cipher_suites
    assert found.groups and found.signature_algorithms and 0 in found.point_formats
    assert (0x0304 in found.supported_versions) == (client != "openssl_tls12")
    expected = {"curl": (b"h2", b"http/1.1"), "python_ssl": (b"h2", b"http/1.1")}
    assert found.alpn == expected.get(client, ())
    assert found.extension_ids == tuple(kind for kind, _ in found.extensions)
    assert found.extension(0xFFFE) is None


def test_real_sizes_cover_one_and_two_segments() -> None:
    assert len(captured("python_ssl")) == 517
    assert len(captured("pyopenssl")) > 1460  # X25519MLKEM768
    assert 0x11EC in parsed(captured("pyopenssl")).groups


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("record_size", [16384, 100, 3])
def test_every_truncation_is_incomplete(client: str, record_size: int) -> None:
    original = captured(client)
    data = records(original[5:], record_size)
    for length in range(len(data)):
        result = parse(data[:length])
        assert isinstance(result, Incomplete)
        assert length < result.needed <= len(data)
    assert parsed(data).extensions == parsed(original).extensions
    assert parsed(data + b"trailing").extensions == parsed(original).extensions
    assert parsed(original + bytes(range(256))).server_name == parsed(original).server_name


@pytest.mark.parametrize("record_size", [1, 2, 7, 600])
def test_looks_are_few_when_records_are_small(record_size: int) -> None:
    data = records(captured("pyopenssl")[5:], record_size)
    looks, available = 0, 0
    while isinstance(result := parse(data[:available]), Incomplete):
        available = result.needed
        looks += 1
    assert result.server_name == HOST_NAME.encode()
    assert looks < 80


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"G",
        b"\x16\x02",
        b"\x15\x03\x03\0\x02\x02\x28",
        b"\x80\x2e\x01\x03\x01",
        b"\0",
    ],
)
def test_not_tls(data: bytes) -> None:
    assert outcome(data) == "not_tls"


def test_needed_starts_with_the_record_header() -> None:
    for start in (b"", b"\x16", b"\x16\x03", b"\x16\x03\x01\x02"):
        assert parse(start) == Incomplete(5)
    assert parse(b"\x16\x03\x01\x02\x00") == Incomplete(517)


def test_needed_counts_what_the_message_lacks_behind_this_record() -> None:
    content = message(body(extension(21, b"\0" * 200)))
    data = records(content, 50)
    lacking = len(content) - 50
    assert parse(data[:5]) == Incomplete(55)  # the message's length is not known yet
    assert parse(data[:20]) == Incomplete(55 + 5 + lacking)
    assert parse(data[:55]) == Incomplete(55 + 5 + lacking)
    assert parse(data[:57]) == Incomplete(55 + 5 + lacking)
    assert parse(data[:62]) == Incomplete(110 + 5 + lacking - 50)


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("an empty record", b"\x16\x03\x01\0\0"),
        ("another message", records(message(body(), kind=2))),
        ("another message, early", b"\x16\x03\x01\x02\x00\x02"),
        ("an alert inside", records(message(body())[:20]) + b"\x15\x03\x03\0\x02\x02\x28"),
        ("another version inside", records(message(body())[:20]) + b"\x16\x02\x03\0\x02\x02\x28"),
        ("an empty record inside", records(message(body())[:20]) + b"\x16\x03\x03\0\0"),
        ("an empty message", records(message(b""))),
        ("a long session id", records(message(body(session_id=b"s" * 33)))),
        ("no cipher suites", records(message(body(ciphers=b"")))),
        ("odd cipher suites", records(message(body(ciphers=b"\x13\x01\x13")))),
        ("no compression methods", records(message(body(compression=b"")))),
        ("bytes behind the extensions", records(message(body() + b"\0"))),
        ("extensions that end early", records(message(body(None) + b"\0\x08" + extension(1, b"")))),
        ("half a length of extensions", records(message(body(None) + b"\0"))),
        ("an extension that ends behind the message", hello(b"\0\x17\0\x05abcd")),
        ("half an extension header", hello(extension(23, b"") + b"\0\x05\0")),
        ("half an extension header before other bytes", hello(b"\0\x05\0") + b"\xff" * 64),
        ("an extension twice", hello(extension(23, b"") + extension(5, b"x") + extension(23, b""))),
        ("two host names", hello(server_name((0, b"a.example"), (0, b"b.example")))),
        ("two names of another type", hello(server_name((7, b"a"), (7, b"b")))),
        ("no server names", hello(extension(0, b"\0\0"))),
        ("an empty server name extension", hello(extension(0, b""))),
        ("an empty host name", hello(server_name((0, b"")))),
        ("a long name list", hello(extension(0, b"\0\x09\0\0\x01a"))),
        ("a long name", hello(extension(0, b"\0\x04\0\0\x09a"))),
        ("half a name", hello(extension(0, b"\0\x02\0\0"))),
        ("bytes behind the names", hello(extension(0, b"\0\x04\0\0\x01ab"))),
        ("a name that is not ASCII", hello(server_name((0, "bücher.example".encode())))),
        ("a zero byte in a name", hello(server_name((0, b"a.example\0.b.example")))),
    ],
)
def test_malformed(what: str, data: bytes) -> None:
    with pytest.raises(MalformedClientHello):
        parse(data)


def test_truncated_bodies_are_malformed_even_with_bytes_behind_them() -> None:
    whole = body(server_name((0, b"a.example")))
    for length in range(len(whole)):
        if length == len(body(None)):
            continue  # a hello without extensions is a hello
        assert outcome(records(message(whole[:length]))) == "malformed_client_hello"
        assert outcome(records(message(whole[:length])) + whole) == "malformed_client_hello"


def test_hello_without_extensions() -> None:
    found = parsed(hello(None))
    assert found.server_name is None
    assert found.extensions == ()
    assert found.supported_versions == ()
    assert found.cipher_suites == (0x1301, 0x1302)


def test_unknown_name_types_are_skipped() -> None:
    assert parsed(hello(server_name((9, b"x"), (0, b"a.example")))).server_name == b"a.example"
    assert parsed(hello(server_name((9, b"x")))).server_name is None


def test_lazy_parts_are_strict() -> None:
    broken = {
        "alpn": (16, [b"", b"\0\0", b"\0\x01\0", b"\0\x03\x05h2", b"\0\x03\x02h2x", b"\0\x04\x02h2"]),
        "supported_versions": (43, [b"", b"\0", b"\x01\x03", b"\x04\x03\x04", b"\x02\x03\x04\0"]),
        "groups": (10, [b"", b"\0\0", b"\0\x01\x1d", b"\0\x02\0", b"\0\x02\0\x1d\0"]),
        "signature_algorithms": (13, [b"", b"\0\0", b"\0\x01\x04", b"\0\x04\x04\x03"]),
        "point_formats": (11, [b"", b"\0", b"\x02\0", b"\x01\0\0"]),
    }
    for name, (kind, bodies) in broken.items():
        for content in bodies:
            found = parsed(hello(extension(kind, content)))
            with pytest.raises(MalformedClientHello):
                getattr(found, name)


def test_message_bounds() -> None:
    room = MAX_MESSAGE - len(message(body())) - 4
    assert parsed(hello(extension(21, b"\0" * room))).extension(21) == b"\0" * room
    with pytest.raises(OversizedClientHello):
        parse(hello(extension(21, b"\0" * (room + 1)))[:9])  # known from the headers alone
    with pytest.raises(OversizedClientHello):
        parse(b"\x16\x03\x01" + struct.pack(">H", 16385))


def test_stream_bound() -> None:
    long = message(body(extension(21, b"\0" * 8000)))
    assert parsed(records(long, 4)).extension_ids == (21,)
    with pytest.raises(OversizedClientHello):
        parse(records(long, 1)[:30000])


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    outcome(data)


@given(st.binary(max_size=400))
def test_arbitrary_bodies(data: bytes) -> None:
    assert outcome(records(message(data))) in {"hello", "malformed_client_hello"}
    outcome(records(data) if data else b"\x16\x03\x01\0\0")


@settings(deadline=None)
@given(
    client=st.sampled_from(sorted(CLIENTS)),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.integers(0, 1 << 16),
    record_size=st.sampled_from([16384, 512, 64, 5]),
)
def test_mutated_real_hellos(client: str, changes: list[tuple[int, int]], cut: int, record_size: int) -> None:
    data = bytearray(records(captured(client)[5:], record_size))
    for at, value in changes:
        data[at % len(data)] = value
    outcome(bytes(data))
    outcome(bytes(data[: cut % len(data)]))
