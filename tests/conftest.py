"""What holds for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.actor_process import Stage
from tests.support.peers import UpstreamHost

# A busy machine may take its time with any example: how long one took says nothing about the code.
settings.register_profile("symphony", deadline=None)
settings.load_profile("symphony")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # By a shell that runs the tests in the background: no program that they start would ever hear a Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


@pytest.fixture
def upstream() -> Iterator[UpstreamHost]:
    host = UpstreamHost("uds")
    yield host
    host.close()
