"""A listener's protection, from the file to the snapshot: lists, files of lists, and everything wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from symphony.config.loaded import Loaded
from symphony.config.problem import Problem
from symphony.config.reload import merge
from symphony.config.resolve import load
from symphony.config.snapshot import ProtectionEntry, Snapshot
from symphony.protection.cidr import CidrSet
from symphony.protection.penalty import SourceLimits
from symphony.tls.certificate_maker import make_certificate

JA3 = "e7d705a3286e19ea42f587b344ee6865"
JA4 = "t13d1516h2_8daaf6152771_e5627efa2ab1"
Read = Callable[[str], Loaded]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    made = make_certificate(["a"])
    (tmp_path / "a.pem").write_bytes(made.chain_pem)
    (tmp_path / "a.key").write_bytes(made.key_pem)
    (tmp_path / "a.key").chmod(0o600)

    def read(protection: str, more: str = "") -> Loaded:
        (tmp_path / "symphony.toml").write_text(
            "[[listeners]]\nport = 1\n"
            'default_cert = { cert_chain_file = "a.pem", private_key_file = "a.key" }\n'
            f"[listeners.protection]\n{protection}\n{more}\n"
            '[[routes]]\nsni = ""\nupstreams = [{ kind = "tcp", host = "127.0.0.1", port = 1 }]\n'
        )
        return load(str(tmp_path / "symphony.toml"))

    return read


def entry(loaded: Loaded, listener: int = 0) -> ProtectionEntry:
    return loaded.require()[1].listeners[listener].protection


def listed(snapshot: Snapshot, digest: str) -> CidrSet:
    return CidrSet.from_bytes(snapshot.networks[digest])


def wrong(loaded: Loaded) -> list[tuple[str, str]]:
    assert loaded.snapshot is None
    return [(problem.place, problem.text) for problem in loaded.problems]


def test_nothing_is_protected_unless_asked(read: Read) -> None:
    loaded = read("")
    assert entry(loaded) == ProtectionEntry()
    assert loaded.require()[1].networks == {}


def test_all_keys(read: Read) -> None:
    loaded = read(
        f"""
        allowlist = ["192.0.2.7", "2001:db8::/32"]
        blocklist = ["192.0.2.0/24"]
        ja3_blocklist = ["{JA3.upper()}"]
        ja4_blocklist = ["{JA4}", "{JA4.upper()}"]
        require_sni = true
        ipv6_prefix = 56
        """
    )
    snapshot, found = loaded.require()[1], entry(loaded)
    assert found.require_sni
    assert found.ipv6_prefix == 56
    assert (found.ja3_blocklist, found.ja4_blocklist) == ((JA3,), (JA4,))
    assert listed(snapshot, found.allowlist) == CidrSet(["192.0.2.7", "2001:db8::/32"])
    assert listed(snapshot, found.blocklist) == CidrSet(["192.0.2.0/24"])
    assert set(snapshot.networks) == {found.allowlist, found.blocklist}


@pytest.mark.parametrize(
    ("protection", "limits"),
    [
        ("rate_limit = { connections_per_second = 5 }", SourceLimits(5.0, 5.0)),
        ("rate_limit = { connections_per_second = 0.5 }", SourceLimits(0.5, 1.0)),
        ("rate_limit = { connections_per_second = 5, burst = 20 }", SourceLimits(5.0, 20.0)),
        (
            "sustained = { connections_per_minute = 30 }",
            SourceLimits(per_minute=30.0, per_minute_burst=30.0),
        ),
        (
            "sustained = { connections_per_minute = 30, burst = 2.5 }\npenalty_box = {}",
            SourceLimits(per_minute=30.0, per_minute_burst=2.5, penalty_s=600.0),
        ),
        (
            "rate_limit = { connections_per_second = 5 }\npenalty_box = { duration_ms = 1500 }",
            SourceLimits(5.0, 5.0, penalty_s=1.5),
        ),
        ("max_concurrent_per_ip = 7", SourceLimits(max_concurrent=7)),
    ],
)
def test_limits(read: Read, protection: str, limits: SourceLimits) -> None:
    found = entry(read(protection))
    assert found.limits == limits
    assert found.ipv6_prefix == 64


def test_lists_in_files(read: Read, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("# known bad\n192.0.2.0/25\n\n192.0.2.128/25 ; the other half\n")
    (tmp_path / "none.txt").write_text("# nobody\n")
    loaded = read('blocklist = ["@bad.txt", "198.51.100.1"]\nallowlist = ["@none.txt"]')
    snapshot, found = loaded.require()[1], entry(loaded)
    assert listed(snapshot, found.blocklist) == CidrSet(["192.0.2.0/24", "198.51.100.1"])
    assert found.allowlist == ""
    names = ("symphony.toml", "a.pem", "a.key", "bad.txt", "none.txt")
    assert set(loaded.files) == {str(tmp_path / name) for name in names}
    assert loaded.files[0] == str(tmp_path / "symphony.toml")


def test_equal_lists_are_carried_once(read: Read) -> None:
    second = '[[listeners]]\nport = 2\n[listeners.protection]\nblocklist = ["10.0.0.0/9", "10.128.0.0/9"]\n'
    loaded = read('blocklist = ["10.0.0.0/8"]', second)
    assert entry(loaded, 0).blocklist == entry(loaded, 1).blocklist
    assert len(loaded.require()[1].networks) == 1


@pytest.mark.parametrize(
    ("protection", "place", "text"),
    [
        ('allowlist = ["10.0.0.0/8", "10.0.0.1/8"]', "allowlist[1]", "expected 10.0.0.0/8"),
        ('blocklist = ["example.com"]', "blocklist[0]", '"example.com" is no network'),
        ('blocklist = ["@"]', "blocklist[0]", "names no file"),
        ('blocklist = ["@no.txt"]', "blocklist[0]", "does not exist"),
        ('blocklist = ["@."]', "blocklist[0]", "is a directory"),
        ('blocklist = "10.0.0.0/8"', "blocklist", "expected an array of strings"),
        (f'ja3_blocklist = ["{JA3[1:]}"]', "ja3_blocklist[0]", "expected 32 hexadecimal digits"),
        (f'ja3_blocklist = ["{JA4}"]', "ja3_blocklist[0]", "is no JA3"),
        (f'ja4_blocklist = ["{JA4}", "{JA3}"]', "ja4_blocklist[1]", "is no JA4"),
        ("require_sni = 1", "require_sni", "expected true or false"),
        ("rate_limit = {}", "rate_limit.connections_per_second", "is missing"),
        ("rate_limit = 5", "rate_limit", "expected a table"),
        ("rate_limit = { connections_per_second = 0 }", "rate_limit.connections_per_second", "above 0"),
        ("rate_limit = { connections_per_second = inf }", "rate_limit.connections_per_second", "finite"),
        ("rate_limit = { connections_per_second = 1, burst = 0.5 }", "rate_limit.burst", "at least 1"),
        ("rate_limit = { connections_per_second = 1, burst = inf }", "rate_limit.burst", "finite"),
        ("sustained = { connections_per_minute = nan }", "sustained.connections_per_minute", "above 0"),
        ("penalty_box = {}", "penalty_box", "means nothing without a rate"),
        ("max_concurrent_per_ip = 2\npenalty_box = {}", "penalty_box", "expected rate_limit or sustained"),
        (
            "rate_limit = { connections_per_second = 1 }\npenalty_box = { duration_ms = 0 }",
            "penalty_box.duration_ms",
            "from 1 to",
        ),
        ("max_concurrent_per_ip = -1", "max_concurrent_per_ip", "at least 0"),
        ("ipv6_prefix = 0", "ipv6_prefix", "from 1 to 128"),
        ("ipv6_prefix = 129", "ipv6_prefix", "from 1 to 128"),
        ("block_list = []", "block_list", 'did you mean "blocklist"?'),
    ],
)
def test_what_is_wrong_has_its_place(read: Read, protection: str, place: str, text: str) -> None:
    [(found_place, found_text)] = wrong(read(protection))
    assert found_place == f"listeners[0].protection.{place}"
    assert text in found_text


def test_what_is_wrong_in_a_file_names_the_line(read: Read, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("192.0.2.0/24\n192.0.2.0/33\nnobody\n")
    found = wrong(read('blocklist = ["10.0.0.0/8", "@bad.txt"]'))
    assert [place for place, _ in found] == ["listeners[0].protection.blocklist[1]"] * 2
    assert found[0][1].startswith('"bad.txt" line 2: "192.0.2.0/33"')
    assert found[1][1].startswith('"bad.txt" line 3: "nobody"')
    (tmp_path / "bad.txt").write_bytes(b"192.0.2.0/24\n\xff\n")
    assert wrong(read('blocklist = ["@bad.txt"]'))[0][1].endswith("is not UTF-8")


def test_a_file_that_cannot_be_read_is_still_to_be_watched(read: Read, tmp_path: Path) -> None:
    assert str(tmp_path / "no.txt") in read('blocklist = ["@no.txt"]').files
    (tmp_path / "symphony.toml").write_text("listeners = [")
    assert load(str(tmp_path / "symphony.toml")).files == (str(tmp_path / "symphony.toml"),)


def test_a_reload_takes_protection_as_a_whole_and_drops_lists_that_nobody_names(read: Read) -> None:
    first = read('blocklist = ["10.0.0.0/8"]\nrequire_sni = true').require()[1]
    merged = merge(first, read('blocklist = ["11.0.0.0/8"]'))
    assert merged.snapshot is not None
    found = merged.snapshot.listeners[0].protection
    assert not found.require_sni
    assert set(merged.snapshot.networks) == {found.blocklist}
    assert listed(merged.snapshot, found.blocklist) == CidrSet(["11.0.0.0/8"])


def test_a_reload_with_a_broken_list_changes_nothing(read: Read) -> None:
    first = read('blocklist = ["10.0.0.0/8"]').require()[1]
    merged = merge(first, read('blocklist = ["10.0.0.0/8", "nonsense"]'))
    assert merged.snapshot is None
    assert merged.problems == (
        Problem(
            "listeners[0].protection.blocklist[1]",
            '"nonsense" is no network: expected one such as 192.0.2.0/24 or 2001:db8::/32',
        ),
    )
