"""The limit on descriptors: how many a configuration needs, and how far the limit goes up."""

from __future__ import annotations

import os
import resource

import pytest

from symphony.config.snapshot import ListenerEntry
from symphony.host import descriptors
from symphony.host.descriptors import DescriptorLimit, limit, needed, raise_limit, shortage
from tests.support.forked import in_child

NOBODY = 65534


def listener(max_connections: int) -> ListenerEntry:
    return ListenerEntry("127.0.0.1:1", "127.0.0.1", 1, max_connections, 60_000, 10_000)


def set_limit(soft: int, hard: int) -> None:
    """As a system would have set it for somebody who may not raise it again."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if os.geteuid() == 0:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def test_two_for_each_connection_of_all_listeners() -> None:
    assert needed([listener(100), listener(1000)]) == 2 * 1100 + descriptors.BESIDES


def test_one_listener_without_a_limit_may_need_any_number() -> None:
    assert needed([listener(100), listener(0)]) is None
    assert needed([]) == descriptors.BESIDES


@pytest.mark.parametrize("wanted", [None, 100, 1900, 100_000])
def test_the_soft_limit_goes_up_to_the_hard_one(wanted: int | None) -> None:
    def go() -> tuple[DescriptorLimit, DescriptorLimit]:
        set_limit(200, 2000)
        return raise_limit(wanted), limit()

    assert in_child(go) == (DescriptorLimit(2000, 2000), DescriptorLimit(2000, 2000))


def test_it_holds_for_children_too() -> None:
    def go() -> object:
        set_limit(200, 2000)
        raise_limit(None)
        return in_child(limit)

    assert in_child(go) == DescriptorLimit(2000, 2000)


def test_a_limit_that_is_high_enough_is_left_alone() -> None:
    def go() -> DescriptorLimit:
        set_limit(2000, 2000)
        return raise_limit(100)

    assert in_child(go) == DescriptorLimit(2000, 2000)


def test_who_may_raises_the_hard_limit_too() -> None:
    def go() -> object:
        resource.setrlimit(resource.RLIMIT_NOFILE, (500, 500))
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (500, 501))
        except (OSError, ValueError):
            return None
        return raise_limit(3000), raise_limit(None).soft

    found = in_child(go)
    # Root in a container often may not (CAP_SYS_RESOURCE): then there is nothing that raise_limit could have done.
    assert found in (None, (DescriptorLimit(3000, 3000), 3000))


def test_more_than_the_kernel_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """A hard limit above fs.nr_open, as containers have it, must not make the raising fail."""
    calls = []
    monkeypatch.setattr(descriptors, "_largest", lambda: 5000)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: calls.append(limits))
    raise_limit(None)
    assert calls == [(5000, resource.RLIM_INFINITY)]


def test_a_shortage_says_what_is_missing_and_what_to_do() -> None:
    def go() -> tuple[str, str, str]:
        set_limit(3024, 3024)
        return shortage([listener(1000)]), shortage([listener(1001)]), shortage([listener(0)])

    enough, short, unlimited = in_child(go)
    assert enough == unlimited == ""
    assert "needs 3026 descriptors" in short
    assert "hard limit is 3024, enough for 1000 connections" in short
    assert "LimitNOFILE=" in short
