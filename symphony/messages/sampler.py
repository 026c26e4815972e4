"""The CPU sampler's mailbox."""

from __future__ import annotations

from msgspec import Struct

from symphony.mailbox.envelope import Refused


class SubscribeCpu(Struct, frozen=True, array_like=True, tag=True):
    """Ask for every :class:`CpuReport` from now on."""

    subscriber: str


class DescribeSampler(Struct, frozen=True, array_like=True, tag=True):
    """Ask for the latest :class:`CpuReport`."""


class CpuReport(Struct, frozen=True, array_like=True, tag=True):
    """CPU use of each sampled thread over the last interval, as (pid, tid, permille of one CPU).

    A thread that is gone is left out.
    """

    samples: tuple[tuple[int, int, int], ...]


SamplerRequest = SubscribeCpu | DescribeSampler
SamplerReply = CpuReport | Refused
