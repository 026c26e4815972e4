"""What every actor can be asked at any time."""

from __future__ import annotations

from typing import Any

import msgspec

from supervisor.messages import DescribeTree, TreeReply
from symphony.mailbox.envelope import PROTOCOL_VERSION, Envelope
from symphony.mailbox.framing import encode_frame
from symphony.messages.acceptor import AcceptorReply, DescribeAcceptor
from symphony.messages.admin import AdminReply, DescribeAdmin
from symphony.messages.limiter import DescribeLimiter, LimiterReply
from symphony.messages.registry import DescribeConfig, RegistryReply
from symphony.messages.sampler import DescribeSampler, SamplerReply
from tools.chaos.plan import ACCEPTOR, SUPERVISOR

_QUESTIONS: dict[str, tuple[Any, Any]] = {
    SUPERVISOR: (DescribeTree(), TreeReply),
    "route-registry": (DescribeConfig(), RegistryReply),
    "rate-limiter": (DescribeLimiter(), LimiterReply),
    "cpu-sampler": (DescribeSampler(), SamplerReply),
    "admin": (DescribeAdmin(), AdminReply),
    ACCEPTOR: (DescribeAcceptor(), AcceptorReply),
}


def question_for(name: str) -> tuple[Any, Any]:
    """A message that the actor `name` answers in whatever state it is, and the union that its answer is one of."""
    return _QUESTIONS[ACCEPTOR if name.startswith(ACCEPTOR) else name]


def request_frame(name: str, *, version: int = PROTOCOL_VERSION) -> bytes:
    """That message as it is on the wire."""
    return encode_frame(msgspec.msgpack.encode(Envelope(version, 1, 0.0, question_for(name)[0])))
