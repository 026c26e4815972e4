"""The ids of connections: unique over acceptors and restarts, and short."""

from __future__ import annotations

from symphony.connection.ids import ConnectionIds
from symphony.relay.proxy_tlv import MAX_UNIQUE_ID


def test_ids_never_come_twice_in_one_life_nor_in_another() -> None:
    lives = [ConnectionIds() for _ in range(50)]
    made = [life.next() for life in lives for _ in range(200)]
    assert len(set(made)) == len(made)


def test_ids_suit_a_log_line_and_a_proxy_header() -> None:
    ids = ConnectionIds()
    ids._made = (1 << 64) - 2
    found = ids.next()
    assert len(found) == 29 <= MAX_UNIQUE_ID
    assert found.isascii() and found.isprintable() and " " not in found
    first, second = ConnectionIds(), ConnectionIds()
    assert first.next().partition("-")[2] == "1"
    assert first.next().partition("-")[0] != second.next().partition("-")[0]
