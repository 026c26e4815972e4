"""The ids of connections: unique over acceptors and restarts, short, and telling which acceptor to ask."""

from __future__ import annotations

import pytest

from symphony.connection.ids import ConnectionIds, acceptor_of
from symphony.relay.proxy_tlv import MAX_UNIQUE_ID


def test_ids_never_come_twice_in_one_life_nor_in_another() -> None:
    lives = [ConnectionIds("acceptor-0") for _ in range(50)]
    made = [life.next() for life in lives for _ in range(200)]
    assert len(set(made)) == len(made)


def test_ids_suit_a_log_line_and_a_proxy_header() -> None:
    ids = ConnectionIds("acceptor-1023")
    ids._made = (1 << 64) - 2
    found = ids.next()
    assert len(found) == 30 + 4 <= MAX_UNIQUE_ID
    assert found.isascii() and found.isprintable() and " " not in found
    first, second = ConnectionIds("acceptor-0").next(), ConnectionIds("acceptor-0").next()
    assert first.startswith("0-") and first.endswith("-1") and second.endswith("-1")
    assert first != second


@pytest.mark.parametrize("name", ["acceptor-0", "acceptor-31", "acceptor-2.0", "acceptor-old-7"])
def test_an_id_tells_the_acceptor(name: str) -> None:
    assert acceptor_of(ConnectionIds(name).next()) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-",
        "9f3a51c07be2-1f",
        "0-9f3a51c07be2-",
        "0-9f3a51c07be-1f",
        "0-9F3A51C07BE2-1f",
        "../../etc-9f3a51c07be2-1f",
        "0-9f3a51c07be2-1f\n",
        " 0-9f3a51c07be2-1f",
        "0-9f3a51c07be2-12345678901234567",
    ],
)
def test_what_is_no_id_names_nobody(text: str) -> None:
    assert acceptor_of(text) is None
