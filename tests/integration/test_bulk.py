"""Bulk through the real command: every bit arrives, and the acceptor's memory stays flat though the reader is slow.

``SYMPHONY_BULK_MIB`` sets how much each way; 1024 is the size that the proxy is meant to be shown with.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.acceptor import wait_until
from tests.support.bulk import BulkLine, bulk_line

MIB = int(os.environ.get("SYMPHONY_BULK_MIB", "256"))
FLAT_WITHIN_KIB = 5 * 1024
# What the sockets of both connections hold at most; the rest must wait at the sender.
HELD_BY_SOCKETS = 64 << 20

pytestmark = pytest.mark.timeout(60 + MIB)


@pytest.fixture(scope="module")
def line() -> Iterator[BulkLine]:
    with bulk_line() as running:
        yield running


@pytest.mark.parametrize("way", ["download", "upload"])
@pytest.mark.parametrize("mode", ["terminated", "passthrough"])
def test_everything_arrives_and_memory_stays_flat(line: BulkLine, mode: str, way: str) -> None:
    moved = line.move(mode, upload=way == "upload", size=MIB << 20)
    assert moved.received == moved.sent == MIB << 20
    assert moved.received_digest == moved.sent_digest
    assert moved.held_back < HELD_BY_SOCKETS, "the sender was not held back, so nothing was shown"
    assert moved.grown_kib < FLAT_WITHIN_KIB, moved
    wait_until(lambda: line.symphony.status().connections.active == 0, "the connection is over")
    assert line.symphony.status().connections.errors == {}
