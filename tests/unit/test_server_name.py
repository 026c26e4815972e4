"""Server names, hosts and the names that clients send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.config.server_name import (
    ServerNameError,
    normalise_client_name,
    normalise_host,
    normalise_server_name,
)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("", ""),
        ("localhost", "localhost"),
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("*.Example.com.", "*.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("r3---sn-abc.example", "r3---sn-abc.example"),
        ("_service.my_app", "_service.my_app"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
        ("1.2.3.4.example", "1.2.3.4.example"),
        (".".join(["a" * 49] * 5), ".".join(["a" * 49] * 5)),
    ],
)
def test_server_names_have_one_normal_form(written: str, normal: str) -> None:
    assert normalise_server_name(written) == normal
    assert normalise_server_name(normal) == normal


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("127.0.0.1", "is an address"),
        ("127.0.0.1.", "is an address"),
        ("::1", "is an address"),
        ("[::1]", "is an address"),
        ("10.0.0.256", "last label is a number"),
        ("*", "write"),
        ("*.", "empty label"),
        (".", "empty label"),
        ("a..example", "empty label"),
        (".example", "empty label"),
        ("example..", "empty label"),
        ("*.*.example", '"*" where none may stand'),
        ("a.*.example", '"*" where none may stand'),
        ("a*.example", '"*" where none may stand'),
        ("\uff0a.example", '"*" where none may stand'),
        ("a" * 64 + ".example", "label of 64"),
        ("ü" * 63 + ".example", "too long"),
        (".".join(["a" * 63] * 4), "too long"),
        ("*." + ".".join(["a" * 63] * 3 + ["a" * 61]), "no room"),
        ("a" * 5000, "too long"),
        ("xn--zzzzzz.example", "not a valid internationalised name"),
        ("xn--a.example", "not a valid internationalised name"),
        ("☃.example", "not a valid internationalised name"),
        ("\ud800.example", "not a valid internationalised name"),
        ("-a.example", "not a label"),
        ("a-.example", "not a label"),
        ("a b.example", "not a label"),
        ("https://a.example", "not a label"),
        ("a.example\n", "not a label"),
        ("a.example:443", "not a label"),
    ],
)
def test_other_server_names_are_refused_with_the_reason(written: str, reason: str) -> None:
    with pytest.raises(ServerNameError, match=reason.replace("*", r"\*")) as caught:
        normalise_server_name(written)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::0", "::"),
        ("FE80::1%eth0", "fe80::1%eth0"),
        ("LocalHost", "localhost"),
        ("db.internal.", "db.internal."),
        ("my_app", "my_app"),
        ("bücher.example", "xn--bcher-kva.example"),
    ],
)
def test_hosts_are_addresses_or_names(written: str, normal: str) -> None:
    assert normalise_host(written) == normal


@pytest.mark.parametrize(
    "written", ["", "[::1]", "127.1", "10.0.0.256", "*.example", "a b", "http://a", "::g"]
)
def test_other_hosts_are_refused(written: str) -> None:
    with pytest.raises(ServerNameError):
        normalise_host(written)


@pytest.mark.parametrize(
    ("sent", "normal"),
    [
        (b"Example.COM", "example.com"),
        (b"example.com.", "example.com"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"a" * 63, "a" * 63),
        (b"", None),
        (b".", None),
        (b"a..b", None),
        (b"a.b..", None),
        (b"*.example.com", None),
        (b"a\0b", None),
        (b"a b", None),
        ("bücher.example".encode(), None),
        (b"a" * 64, None),
        (b"a.b\n", None),
        (b".".join([b"a" * 63] * 4), None),
    ],
)
def test_client_names(sent: bytes, normal: str | None) -> None:
    assert normalise_client_name(sent) == normal


@given(st.text(max_size=80))
def test_any_text_is_either_normalised_for_good_or_refused(text: str) -> None:
    try:
        normal = normalise_server_name(text)
    except ServerNameError:
        return
    assert normalise_server_name(normal) == normal
    if normal and not normal.startswith("*."):
        # What a route is stored under is what its clients' names come to.
        assert normalise_client_name(normal.upper().encode("ascii") + b".") == normal


@given(st.binary(max_size=300))
def test_any_bytes_from_a_client_are_taken_without_an_error(sent: bytes) -> None:
    normal = normalise_client_name(sent)
    assert normal is None or (0 < len(normal) <= 253 and normal.encode() == sent.lower().removesuffix(b"."))
