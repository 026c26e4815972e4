"""JA3 and JA4 against published vectors, real clients and hellos with GREASE in every place."""

from __future__ import annotations

import hashlib
import time
from functools import cache
from struct import pack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symphony.tls import fingerprint
from symphony.tls.client_hello import ClientHello, MalformedClientHello, parse
from symphony.tls.fingerprint import (
    GREASE,
    FingerprintError,
    Fingerprints,
    check_ja3,
    check_ja4,
    is_listed,
    ja3,
    ja4,
)
from tests.support.client_hellos import CLIENTS, HOST_NAME, capture

captured = cache(capture)


def vector(width: int, content: bytes) -> bytes:
    return len(content).to_bytes(width, "big") + content


def numbers(values: list[int]) -> bytes:
    return pack(f">{len(values)}H", *values)


def build(
    ciphers: list[int],
    kinds: list[int] | None,
    *,
    legacy: int = 0x0303,
    groups: list[int] | None = None,
    formats: bytes = b"\0",
    algorithms: list[int] | None = None,
    versions: list[int] | None = None,
    alpn: list[bytes] | None = None,
    bodies: dict[int, bytes] | None = None,
) -> ClientHello:
    """A hello with the extensions `kinds` in that order; those with contents have the contents given."""
    contents = {
        0: vector(2, b"\0" + vector(2, HOST_NAME.encode())),
        10: vector(2, numbers(groups or [29])),
        11: vector(1, formats),
        13: vector(2, numbers(algorithms or [0x0403])),
        16: vector(2, b"".join(vector(1, name) for name in alpn or [b"h2"])),
        43: vector(1, numbers(versions or [0x0304])),
        **(bodies or {}),
    }
    content = pack(">H", legacy) + b"r" * 32 + vector(1, b"") + vector(2, numbers(ciphers)) + b"\1\0"
    if kinds is not None:
        content += vector(
            2, b"".join(pack(">H", kind) + vector(2, contents.get(kind, b"\0")) for kind in kinds)
        )
    message = b"\1" + vector(3, content)
    hello = parse(b"\x16\x03\x01" + vector(2, message))
    assert isinstance(hello, ClientHello)
    return hello


def from_ja3(text: str) -> ClientHello:
    version, *lists = text.split(",")
    ciphers, kinds, groups, formats = ([int(word) for word in part.split("-") if word] for part in lists)
    return build(
        ciphers, kinds or None, legacy=int(version), groups=groups or None, formats=bytes(formats) or b"\0"
    )


# The first two are from the README of salesforce/ja3, the others were reported for real browsers by ja3er.com,
# tls.browserleaks.com and Wireshark.
JA3_VECTORS = {
    "769,47-53-5-10-49161-49162-49171-49172-50-56-19-4,0-10-11,23-24-25,0": "ada70206e40642a3e4461f35503241d5",
    "769,4-5-10-9-100-98-3-6-19-18-99,,,": "de350869b8c85de67a350c8d186f11e6",
    "771,49195-49199-49196-49200-52393-52392-49171-49172-156-157-47-53-10,"
    "65281-0-23-35-13-5-18-16-11-10,29-23-24,0": "bc6c386f480ee97b9d9e52d472b772d8",
    "771,4865-4866-4867-49195-49199-49196-49200-52393-52392-49171-49172-156-157-47-53,"
    "0-23-65281-10-11-35-16-5-13-18-51-45-43-27-21,29-23-24,0": "b32309a26951912be7dba376398abc3b",
    "771,4865-4866-4867-49195-49199-49196-49200-52393-52392-49171-49172-156-157-47-53,"
    "0-23-65281-10-11-35-16-5-13-18-51-45-43-27-17513-21,29-23-24,0": "cd08e31494f9531f560d64c695473da9",
    "771,4865-4867-4866-49195-49199-52393-52392-49196-49200-49162-49161-49171-49172-51-57-47-53-10,"
    "0-23-65281-10-11-35-16-5-51-43-13-45-28-21,29-23-24-25-256-257,0": "b20b44b18b853ef29ab773e921b03422",
    "771,49196-49195-49188-49187-49162-49161-52393-49200-49199-49192-49191-49172-49171-52392-157-156-61-60-53-47,"
    "65281-0-23-13-5-13172-18-16-11-10,29-23-24-25,0": "a69708a64f853c3bcc214c2c5faf84f3",
    "771,4866-4867-4865-49199-49195-49200-49196-158-49191-103-49192-107-163-159-52393-52392-52394-49327-49325-49315-"
    "49311-49245-49249-49239-49235-162-49326-49324-49314-49310-49244-49248-49238-49234-49188-106-49187-64-49162-"
    "49172-57-56-49161-49171-51-50-157-49313-49309-49233-156-49312-49308-49232-61-60-53-47-255,"
    "0-11-10-35-23-13-43-45-51,29-23-1035-25-24,0-1-2": "d1c53d643a3357880b7351a8332ec792",
    "771,4865-4867-4866-49195-49199-52393-52392-49196-49200-49162-49161-49171-49172-156-157-47-53,"
    "0-23-65281-10-11-35-16-5-34-51-43-13-45-28-65037,29-23-24-25-256-257,0": "b5001237acdf006056b409cc433726b0",
    "771,4865-4866-4867-49195-49199-49196-49200-52393-52392-49171-49172-156-157-47-53,"
    "45-51-16-65037-23-17613-0-11-10-43-65281-35-18-5-13-27,4588-29-23-24,0": "98487aa16281980e7d1120d399efb6a4",
}

CHROME_CIPHERS = (
    "1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035",
    "0403,0804,0401,0503,0805,0501,0806,0601",
)
FIREFOX_ALGORITHMS = "0403,0503,0603,0804,0805,0806,0401,0501,0601,0203,0201"
FIREFOX_CIPHERS = "1301,1303,1302,c02b,c02f,cca9,cca8,c02c,c030,c00a,c009,c013,c014,009c,009d,002f,0035"

# What the clients in the captures of FoxIO-LLC/ja4 sent (ciphers, extensions, signature algorithms, first ALPN name)
# and what its reference implementations make of it; the last two were reported by Wireshark and browserleaks.com.
JA4_VECTORS = {
    "specification": (
        CHROME_CIPHERS[0],
        "001b,0000,0033,0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015",
        CHROME_CIPHERS[1],
        b"h2",
        "t13d1516h2_8daaf6152771_e5627efa2ab1",
    ),
    "browsers-x509": (
        "aaaa," + CHROME_CIPHERS[0],
        "6a6a,000d,0000,000a,0005,000b,002b,001b,ff01,0033,4469,002d,0023,0017,0012,0010,0a0a,0015",
        CHROME_CIPHERS[1],
        b"h2",
        "t13d1516h2_8daaf6152771_e5627efa2ab1",
    ),
    "badcurveball": (
        "aaaa," + CHROME_CIPHERS[0] + ",000a",
        "4a4a,0000,0017,ff01,000a,000b,0023,0010,0005,000d,0012,0033,002d,002b,001b,7a7a,0015",
        CHROME_CIPHERS[1] + ",0201",
        b"h2",
        "t13d1615h2_46e7e9700bed_45f260be83e2",
    ),
    "latest, resumed": (
        "0a0a," + CHROME_CIPHERS[0],
        "5a5a,000d,0010,0000,000b,0023,4469,ff01,0033,000a,002d,002b,0005,0017,0012,001b,6a6a,0029",
        CHROME_CIPHERS[1],
        b"h2",
        "t13d1516h2_8daaf6152771_9b887d9acb53",
    ),
    "latest, TLS 1.2 without ALPN": (
        "c02c,c02b,c030,c02f,c024,c023,c028,c027,c00a,c009,c014,c013,009d,009c,003d,003c,0035,002f,000a",
        "0000,0005,000a,000b,000d,0023,0017,ff01",
        "0804,0805,0806,0401,0501,0201,0403,0503,0203,0202,0601,0603",
        b"",
        "t12d190800_d83cc789557e_7af1ed941c26",
    ),
    "tls-alpn-h2": (
        "c030,c02c,c028,c024,c014,c00a,009f,006b,0039,cca9,cca8,ccaa,ff85,00c4,0088,0081,009d,003d,0035,00c0,0084,"
        "c02f,c02b,c027,c023,c013,c009,009e,0067,0033,00be,0045,009c,003c,002f,00ba,0041,c011,c007,0005,0004,c012,"
        "c008,0016,000a,00ff",
        "0000,000b,000a,000d,0010",
        "0601,0603,efef,0501,0503,0401,0403,eeee,eded,0301,0303,0201,0203",
        b"h2",
        "t12d4605h2_85626a9a5f7f_aaf95bb78ec9",
    ),
    "sigalg-grease": (
        CHROME_CIPHERS[0],
        "1a1a,fe0d,0010,0017,0033,44cd,ff01,000a,000d,0023,002b,000b,ca34,002d,0000,0005,001b,0012",
        "3a3a,0904,0905,0906," + CHROME_CIPHERS[1],
        b"h2",
        "t13d1517h2_8daaf6152771_cb7bf5808d99",
    ),
    "tls12": (
        FIREFOX_CIPHERS,
        "0000,0017,ff01,000a,000b,0023,0010,0005,0022,0033,002b,000d,002d,001c,0015",
        FIREFOX_ALGORITHMS,
        b"h2",
        "t13d1715h2_5b57614c22b0_3d5424432f57",
    ),
    "Firefox": (
        FIREFOX_CIPHERS,
        "0000,0017,ff01,000a,000b,0023,0010,0005,0022,0033,002b,000d,002d,001c,fe0d",
        FIREFOX_ALGORITHMS,
        b"h2",
        "t13d1715h2_5b57614c22b0_5c2c66f702b0",
    ),
    "Chrome 143": (
        CHROME_CIPHERS[0],
        "002d,0033,0010,fe0d,0017,44cd,0000,000b,000a,002b,ff01,0023,0012,0005,000d,001b",
        CHROME_CIPHERS[1],
        b"h2",
        "t13d1516h2_8daaf6152771_d8a2da3f94cd",
    ),
}


def hexadecimals(text: str) -> list[int]:
    return [int(word, 16) for word in text.split(",")]


@pytest.mark.parametrize("text", JA3_VECTORS)
def test_published_ja3(text: str) -> None:
    assert ja3(from_ja3(text)) == (text, JA3_VECTORS[text])


@pytest.mark.parametrize("name", JA4_VECTORS)
def test_published_ja4(name: str) -> None:
    ciphers, kinds, algorithms, alpn, expected = JA4_VECTORS[name]
    hello = build(
        hexadecimals(ciphers),
        hexadecimals(kinds),
        algorithms=hexadecimals(algorithms),
        versions=[0x8A8A, 0x0304, 0x0303],
        alpn=[alpn, b"http/1.1"],
    )
    assert ja4(hello) == expected
    assert check_ja4(expected) == expected


def test_grease_is_left_out_everywhere() -> None:
    """A Chromium-like hello with GREASE wherever RFC 8701 lets a client put it, and another draw of it."""
    plain = build(
        [0x1301, 0xC02B],
        [0, 10, 13, 16, 43],
        groups=[29],
        algorithms=[0x0403],
        versions=[0x0303],
        alpn=[b"h2"],
    )
    for one, two in [(0x0A0A, 0xFAFA), (0x6A6A, 0x1A1A), (0xCACA, 0xDADA)]:
        hello = build(
            [one, 0x1301, 0xC02B],
            [two, 0, 10, 13, 16, 43, one],
            groups=[two, 29],
            algorithms=[one, 0x0403],
            versions=[two, 0x0303, one],
            alpn=[b"h2", bytes([0x8A, 0x8A])],
        )
        assert ja3(hello) == ja3(plain)
        assert ja4(hello) == ja4(plain)
        assert ja4(hello).startswith("t12d0205h2_")
    assert len(GREASE) == 16


def test_values_that_only_look_like_grease_count() -> None:
    hello = build([0x1301, 0x0A1A, 0x1A0A, 0xA0A0], None)
    assert ja3(hello)[0] == "771,4865-2586-6666-41120,,,"
    assert ja4(hello).startswith("t12i0400")


@pytest.mark.parametrize(
    ("alpn", "marks"),
    [
        (b"h2", "h2"),
        (b"http/1.1", "h1"),
        (b"x", "xx"),
        (b"\xab", "ab"),
        (b"\xab\xcd", "ad"),
        (b"\x30\xab", "3b"),
        (b"\x30\x31\xab\xcd", "3d"),
        (b"\x30\xab\xcd\x31", "01"),
        (b"H2", "H2"),
        (b"-", "2d"),
    ],
)
def test_alpn_marks_of_the_specification(alpn: bytes, marks: str) -> None:
    assert ja4(build([0x1301], [16], alpn=[alpn]))[8:10] == marks


@pytest.mark.parametrize("body", [b"\0\1\0", b"\0\0", b""], ids=["empty name", "no names", "no list"])
def test_alpn_without_a_name(body: bytes) -> None:
    assert ja4(build([0x1301], [16], bodies={16: body}))[8:10] == "00"


@pytest.mark.parametrize(
    ("legacy", "versions", "mark"),
    [
        (0x0301, None, "10"),
        (0x0302, None, "11"),
        (0x0303, None, "12"),
        (0x0300, None, "s3"),
        (0x0002, None, "s2"),
        (0x0299, None, "00"),
        (0x0303, [0x0303, 0x0304], "13"),
        (0x0303, [0x0A0A], "00"),
        (0x0303, [0x0302, 0x0301], "11"),
    ],
)
def test_version(legacy: int, versions: list[int] | None, mark: str) -> None:
    hello = build([0x1301], [43] if versions else [], legacy=legacy, versions=versions)
    assert ja4(hello)[1:3] == mark


def test_lists_with_nothing_in_them() -> None:
    assert ja4(build([0x1A1A], None)) == "t12i000000_000000000000_000000000000"
    assert ja4(build([0x1301], [0, 16])).endswith("_000000000000")
    without = "0005,000a,000b,000d,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01"
    kinds = [kind for kind in hexadecimals(without) if kind != 13]
    digest = hashlib.sha256(without.replace("000d,", "").encode()).hexdigest()[:12]
    assert ja4(build([0x1301], kinds)).endswith(f"_{digest}")
    # the specification's own example of a list that ends without an underscore
    only_grease = build([0x1301], hexadecimals(without), algorithms=[0x0A0A])
    assert ja4(only_grease).endswith("_6d807ffa2a79")


def test_counts_stop_at_99() -> None:
    hello = build(list(range(200)), list(range(100, 220)))
    assert ja4(hello)[4:8] == "9999"


@pytest.mark.parametrize("kind", [10, 13, 43, 16])
def test_broken_fields_have_no_fingerprint(kind: int) -> None:
    hello = build([0x1301], [kind], bodies={kind: b"\0\x05\x05\x01"})
    with pytest.raises(MalformedClientHello):
        ja3(hello) if kind == 10 else ja4(hello)


@pytest.mark.parametrize("client", CLIENTS)
def test_real_clients(client: str) -> None:
    """An independent working out of both, straight from the bytes' meaning."""
    hello = parse(captured(client))
    assert isinstance(hello, ClientHello)
    text, digest = ja3(hello)
    version, ciphers, kinds, groups, formats = text.split(",")
    assert version == str(hello.legacy_version)
    assert [int(word) for word in ciphers.split("-")] == list(hello.cipher_suites)
    assert [int(word) for word in kinds.split("-")] == list(hello.extension_ids)
    assert [int(word) for word in groups.split("-")] == list(hello.groups)
    assert [int(word) for word in formats.split("-")] == list(hello.point_formats)
    assert check_ja3(digest) == digest
    start, second, third = ja4(hello).split("_")
    assert start[:3] == ("t12" if client == "openssl_tls12" else "t13")
    assert start[3] == ("i" if client == "openssl_no_name" else "d")
    assert start[4:8] == f"{len(hello.cipher_suites):02}{len(hello.extension_ids):02}"
    if hello.alpn:
        assert start[8:] == "h2"
    else:
        assert start[8:] == "00"
    names = ",".join(sorted(f"{number:04x}" for number in hello.cipher_suites))
    assert second == hashlib.sha256(names.encode()).hexdigest()[:12]
    extensions = ",".join(sorted(f"{kind:04x}" for kind in hello.extension_ids if kind not in (0, 16)))
    algorithms = ",".join(f"{number:04x}" for number in hello.signature_algorithms)
    assert third == hashlib.sha256(f"{extensions}_{algorithms}".encode()).hexdigest()[:12]


def test_a_client_keeps_its_fingerprint() -> None:
    assert ja4(parse(capture("python_ssl"))) == ja4(parse(captured("python_ssl")))  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.permutations(hexadecimals(JA4_VECTORS["Chrome 143"][1])))
def test_ja4_does_not_depend_on_the_order_of_extensions(kinds: list[int]) -> None:
    ciphers, _, algorithms, alpn, expected = JA4_VECTORS["Chrome 143"]
    hello = build(hexadecimals(ciphers), kinds, algorithms=hexadecimals(algorithms), alpn=[alpn])
    assert ja4(hello) == expected


@settings(deadline=None)
@given(st.data())
def test_every_hello_that_parses_has_a_valid_fingerprint(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, 65535), min_size=1, max_size=120))
    kinds = data.draw(st.lists(st.integers(0, 65535), unique=True, max_size=120))
    hello = build(chosen, kinds, alpn=[data.draw(st.binary(min_size=1, max_size=255))])
    check_ja3(ja3(hello)[1])
    entry = check_ja4(ja4(hello))
    assert is_listed(ja4(hello), frozenset({entry}))
    assert not is_listed(ja4(hello), frozenset({"t" + entry[1:-1] + "g"}))


def test_list_entries_in_any_case() -> None:
    assert check_ja3("ADA70206E40642A3E4461F35503241D5") == "ada70206e40642a3e4461f35503241d5"
    assert check_ja4("T13D1516H2_8DAAF6152771_E5627EFA2AB1") == "t13d1516h2_8daaf6152771_e5627efa2ab1"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "expected 32 hexadecimal digits"),
        ("ada70206e40642a3e4461f35503241d", "expected 32"),
        ("ada70206e40642a3e4461f35503241d55", "expected 32"),
        ("gda70206e40642a3e4461f35503241d5", "expected 32"),
        ("ada70206e40642a3e4461f35503241d5\n", "expected 32"),
        ("769,4-5,,,", "expected its MD5 digest"),
        ("t13d1516h2_8daaf6152771_e5627efa2ab1", "expected 32"),
    ],
)
def test_bad_ja3_entries(text: str, wrong: str) -> None:
    with pytest.raises(FingerprintError, match=wrong):
        check_ja3(text)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "no JA4"),
        ("t13d1516h2_8daaf6152771_e5627efa2ab", "no JA4"),
        ("t13d1516h2_8daaf6152771", "no JA4"),
        ("t13d1516h2_8daaf6152771_e5627efa2ab1_", "no JA4"),
        ("t14d1516h2_8daaf6152771_e5627efa2ab1", "no JA4"),
        ("t13x1516h2_8daaf6152771_e5627efa2ab1", "no JA4"),
        ("t13d15a6h2_8daaf6152771_e5627efa2ab1", "no JA4"),
        ("t13d\u0661516h2_8daaf6152771_e5627efa2ab1", "no JA4"),
        ("q13d0310h3_55b375c5d22e_cd85d2d88918", "QUIC or DTLS"),
        ("ada70206e40642a3e4461f35503241d5", "no JA4"),
    ],
)
def test_bad_ja4_entries(text: str, wrong: str) -> None:
    with pytest.raises(FingerprintError, match=wrong):
        check_ja4(text)


_TWO = st.lists(st.sampled_from([0x0A0A, 0x1A1A, 23, 29, 0x0303, 0x0304]), min_size=1, max_size=2)


@settings(deadline=None, max_examples=300)
@given(
    ciphers=_TWO,
    kinds=st.lists(st.sampled_from([0, 5, 10, 11, 13, 16, 43, 0x0A0A, 0x2A2A]), unique=True),
    legacy=st.sampled_from([0x0302, 0x0303]),
    groups=_TWO,
    formats=st.sampled_from([b"\0", b"\0\1"]),
    algorithms=_TWO,
    versions=_TWO,
    alpn=st.sampled_from([[b"h2"], [b"h2", b"h3"], [b"x"]]),
)
def test_what_is_remembered_is_never_anothers(**parts: Any) -> None:
    """Few values in each field, so that hellos often differ in one alone."""
    hello = build(parts.pop("ciphers"), parts.pop("kinds"), **parts)
    for _ in range(2):
        found = Fingerprints(hello)
        assert found.known == ("", "")
        assert (found.ja4, found.ja3) == (ja4(hello), ja3(hello)[1])
        assert found.known == (ja3(hello)[1], ja4(hello))


def test_the_same_client_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    worked_out: list[str] = []

    def note(hello: ClientHello) -> str:
        worked_out.append("ja4")
        return ja4(hello)

    monkeypatch.setattr(fingerprint, "_remembered", {})
    monkeypatch.setattr(fingerprint, "ja4", note)
    for _ in range(3):
        hello = parse(capture("python_ssl"))  # another random, another key share
        assert isinstance(hello, ClientHello)
        assert Fingerprints(hello).ja4 == ja4(hello)
    assert worked_out == ["ja4"]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_remembered", {})
    monkeypatch.setattr(fingerprint, "_MOST_REMEMBERED", 10)
    for cipher in range(50):
        assert Fingerprints(build([cipher], [0])).ja3
    assert len(fingerprint._remembered) <= 10


def test_one_that_cannot_be_read_never_has_a_fingerprint() -> None:
    hello = build([1], [10], bodies={10: b"\xff\xff"})
    for _ in range(2):
        with pytest.raises(MalformedClientHello):
            _ = Fingerprints(hello).ja3


def test_cost() -> None:
    """Some tens of microseconds for both at the very most, so that asking for them is no way to slow a proxy."""
    hello = parse(captured("openssl"))
    assert isinstance(hello, ClientHello)
    best = min(_seconds(hello) for _ in range(5))
    assert best < 400e-6


def _seconds(hello: ClientHello) -> float:
    start = time.thread_time()
    for _ in range(100):
        ja3(hello)
        ja4(hello)
    return (time.thread_time() - start) / 100
