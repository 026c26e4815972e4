"""Networks, sets of them, list files and the keys of sources, against the standard library's ipaddress."""

from __future__ import annotations

import ipaddress
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symphony.config.wording import quoted
from symphony.protection.cidr import (
    CidrError,
    CidrSet,
    Network,
    pack_address,
    parse_list,
    parse_network,
    source_key,
    source_name,
)

networks_4 = st.builds(
    lambda address, prefix: ipaddress.IPv4Network((address >> (32 - prefix) << (32 - prefix), prefix)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)
networks_6 = st.builds(
    lambda address, prefix: ipaddress.IPv6Network((address >> (128 - prefix) << (128 - prefix), prefix)),
    st.integers(2**125, 2**126 - 1),
    st.integers(0, 128),
)


def test_entries() -> None:
    assert parse_network("10.0.0.0/8") == Network(4, 10 << 24, (11 << 24) - 1)
    assert parse_network("192.0.2.1") == parse_network("192.0.2.1/32")
    assert parse_network("2001:db8::/32").version == 6
    assert parse_network("2001:DB8::1").first == parse_network("2001:db8:0::1/128").first
    assert parse_network("0.0.0.0/0") == Network(4, 0, 2**32 - 1)
    assert parse_network("::ffff:192.0.2.0/120") == parse_network("192.0.2.0/24")
    assert parse_network("::ffff:0:0/96") == parse_network("0.0.0.0/0")
    assert parse_network("::fffe:0:0/95").version == 6


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        ("10.0.0.1/8", r'"10.0.0.1/8" has address bits set behind its prefix: expected 10.0.0.0/8'),
        ("2001:db8::1/32", r"expected 2001:db8::/32"),
        ("::ffff:192.0.2.1/120", r"behind its prefix"),
        ("10.0.0.0/33", r"expected a number from 0 to 32"),
        ("::/129", r"expected a number from 0 to 128"),
        ("10.0.0.0/", r"prefix length"),
        ("10.0.0.0/-1", r"prefix length"),
        ("10.0.0.0/+8", r"prefix length"),
        ("10.0.0.0/ 8", r"prefix length"),
        ("10.0.0.0/8_0", r"prefix length"),
        ("10.0.0.0/\u0668", r"prefix length"),
        ("10.0.0.0/255.0.0.0", r"prefix length"),
        ("10.0.0.0/8/8", r"prefix length"),
        ("10.0.0/8", '"10.0.0/8" is no network'),
        ("010.0.0.0/8", r"is no network"),
        ("10.0.0.256", r"is no network"),
        (" 10.0.0.0", r"is no network"),
        ("10.0.0.0\0", r"is no network"),
        ("fe80::1%eth0", r"is no network"),
        ("1::2::3", r"is no network"),
        ("shop.example.com", r"is no network"),
        ("", '"" is no network'),
    ],
)
def test_bad_entries(entry: str, wrong: str) -> None:
    with pytest.raises(CidrError, match=wrong) as caught:
        parse_network(entry)
    assert quoted(entry) in str(caught.value)
    with pytest.raises(CidrError):
        CidrSet(["192.0.2.1", entry])


def test_the_bounds_of_a_network() -> None:
    networks = CidrSet(["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"])
    for inside in [
        "10.0.0.0",
        "10.255.255.255",
        "192.0.2.7",
        "2001:db8::",
        "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
    ]:
        assert networks.contains(inside), inside
        assert networks.contains(ipaddress.ip_address(inside).packed), inside
    for outside in [
        "9.255.255.255",
        "11.0.0.0",
        "192.0.2.6",
        "192.0.2.8",
        "2001:db7:ffff::",
        "2001:db9::",
        "::",
    ]:
        assert not networks.contains(outside), outside


def test_mapped_addresses_are_ipv4() -> None:
    networks = CidrSet(["192.0.2.0/24"])
    assert networks.contains("::ffff:192.0.2.1")
    assert networks.contains("::ffff:c000:201")
    assert networks.contains(bytes(10) + b"\xff\xff\xc0\0\2\1")
    assert not networks.contains("::ffff:192.0.3.1")
    assert not networks.contains("::192.0.2.1")
    every_v6 = CidrSet(["::/0"])
    assert every_v6.contains("::192.0.2.1")
    assert not every_v6.contains("::ffff:192.0.2.1")
    assert CidrSet(["::ffff:192.0.2.0/120"]).contains("192.0.2.1")


def test_the_whole_space_and_nothing() -> None:
    everything = CidrSet(["0.0.0.0/0", "::/0"])
    for address in ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]:
        assert everything.contains(address)
        assert not CidrSet().contains(address)
    assert everything
    assert not CidrSet()
    assert CidrSet(["::1"])


@pytest.mark.parametrize("address", ["", "unix", "10.0.0", "10.0.0.0/8", b"", b"12345", "1" * 50, "\0"])
def test_what_is_no_address(address: str | bytes) -> None:
    with pytest.raises(ValueError, match="address"):
        CidrSet(["0.0.0.0/0"]).contains(address)


def test_a_link_local_peer_with_its_interface() -> None:
    assert CidrSet(["fe80::/10"]).contains("fe80::1%eth0")


@settings(deadline=None)
@given(st.lists(networks_4 | networks_6, max_size=40), st.data())
def test_like_ipaddress(
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network], data: st.DataObject
) -> None:
    made = CidrSet([str(network) for network in networks])
    assert made == CidrSet([parse_network(str(network)) for network in reversed(networks)])
    addresses = [data.draw(st.ip_addresses(v=4)), data.draw(st.ip_addresses(v=6))]
    for network in networks:
        first, last = network[0], network[-1]
        addresses += [first, last]
        addresses += [first - 1] if int(first) else []
        addresses += [last + 1] if int(last) + 1 < 2**network.max_prefixlen else []
    for address in addresses:
        if address.version == 6 and address.ipv4_mapped:
            continue
        expected = any(address in network for network in networks)
        assert made.contains(str(address)) == expected
        assert made.contains(address.packed) == expected
    back = CidrSet.from_bytes(made.to_bytes())
    assert back == made
    assert hash(back) == hash(made)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_packed_sets_that_are_none(data: bytes) -> None:
    try:
        back = CidrSet.from_bytes(data)
    except ValueError:
        return
    assert CidrSet.from_bytes(back.to_bytes()) == back


def test_list_files() -> None:
    text = "\ufeff# ours\r\n10.0.0.0/8\r\n\r\n  192.0.2.1   # one\n2001:db8::/32 ; SBL1\n;\n\t\n"
    networks, problems = parse_list(text)
    assert networks == [parse_network(entry) for entry in ("10.0.0.0/8", "192.0.2.1", "2001:db8::/32")]
    assert problems == []
    assert parse_list("") == ([], [])


def test_list_files_say_where_they_are_wrong() -> None:
    networks, problems = parse_list("# a\n10.0.0.1/8\n10.0.0.0/8\n\nnonsense # here\n")
    assert networks == [parse_network("10.0.0.0/8")]
    assert [problem.split(":")[0] for problem in problems] == ["line 2", "line 5"]
    assert "expected 10.0.0.0/8" in problems[0]
    _, problems = parse_list("x\n" * 1000)
    assert len(problems) == 21
    assert problems[-1] == "and 980 more lines that are no networks"


def test_source_keys() -> None:
    assert source_key("192.0.2.1") == bytes([192, 0, 2, 1])
    assert source_key("::ffff:192.0.2.1") == source_key("192.0.2.1") == source_key(bytes([192, 0, 2, 1]))
    assert source_key("2001:db8:0:1::5") == source_key("2001:db8:0:1:ffff::") != source_key("2001:db8:0:2::5")
    assert len(source_key("2001:db8::1")) == 8
    assert source_key("2001:db8::1", 128) == ipaddress.ip_address("2001:db8::1").packed
    assert source_key("2001:db8:0:17ff::", 56) == source_key("2001:db8:0:1700::", 56)
    assert (
        source_key("2001:db8:0:f::", 60) == source_key("2001:db8::", 60) != source_key("2001:db8:0:10::", 60)
    )
    assert source_key("102:304:506::", 32) not in (source_key("1.2.3.4"), source_key("1.2.3.4", 32))
    assert source_key("102:304:506::", 0) == source_key("ffff::", 0)
    with pytest.raises(ValueError, match="no IP address"):
        source_key("nobody")


@settings(deadline=None)
@given(st.ip_addresses(v=6), st.integers(0, 128))
def test_ipv6_source_keys_are_the_network(address: ipaddress.IPv6Address, prefix: int) -> None:
    network = ipaddress.IPv6Network((int(address) >> (128 - prefix) << (128 - prefix), prefix))
    if any(each.ipv4_mapped for each in (address, network[0], network[-1])):
        return  # those are IPv4 sources, such as the last one of ::/80
    key = source_key(str(address), prefix)
    assert key == source_key(str(network[0]), prefix) == source_key(network[-1].packed, prefix)
    name = source_name(key, prefix)
    assert ipaddress.IPv6Network(name) == network
    assert len(key) >= 5


def test_source_names() -> None:
    assert source_name(source_key("192.0.2.1")) == "192.0.2.1"
    assert source_name(source_key("2001:db8::1")) == "2001:db8::/64"
    assert source_name(source_key("2001:db8::1", 128), 128) == "2001:db8::1"
    assert pack_address("::ffff:192.0.2.1") == bytes([192, 0, 2, 1])


def test_cost_with_a_hundred_thousand_networks() -> None:
    """The limits are those that the proxy promises, times what a busy test machine takes away."""
    draw = random.Random(4)
    entries = [
        f"{draw.getrandbits(8)}.{draw.getrandbits(8)}.{draw.getrandbits(8)}.0/24" for _ in range(80_000)
    ]
    entries += [f"2001:{draw.getrandbits(16):x}:{draw.getrandbits(16):x}::/48" for _ in range(20_000)]
    start = time.thread_time()
    networks = CidrSet(entries)
    assert time.thread_time() - start < 3
    packed = networks.to_bytes()
    start = time.thread_time()
    assert CidrSet.from_bytes(packed) == networks
    assert time.thread_time() - start < 1
    addresses = [entry.partition("/")[0] for entry in draw.sample(entries, 2000)]

    def seconds() -> float:
        start = time.thread_time()
        assert all(map(networks.contains, addresses))
        return (time.thread_time() - start) / len(addresses)

    assert min(seconds() for _ in range(20)) < 5e-6


def test_a_set_as_networks() -> None:
    listed = CidrSet(
        ["10.0.0.0/9", "10.128.0.0/9", "192.0.2.1", "192.0.2.2", "2001:db8::/32", "::/0", "255.255.255.255"]
    )
    assert list(map(str, listed.networks())) == [
        "10.0.0.0/8",
        "192.0.2.1/32",
        "192.0.2.2/32",
        "255.255.255.255/32",
        "::/0",
    ]
    assert list(CidrSet().networks()) == []
    assert CidrSet(map(str, listed.networks())) == listed
