"""Session resumption as ``openssl s_client`` sees it, and which acceptor gave and which took the session."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.calls import Target, s_client
from tests.support.symphony_process import SymphonyProcess

_HANDSHAKE = re.compile(r"^(New|Reused), (TLSv1\.[23]),", re.MULTILINE)
RECONNECTS = 5


@dataclass
class Resumptions:
    """`pairs` counts (acceptor that gave the session, acceptor that resumed it); `failures` has a line per miss."""

    resumed: int = 0
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_acceptor: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def reconnect(
    symphony: SymphonyProcess, target: Target, acceptors: tuple[str, ...], most: int
) -> Resumptions:
    """``s_client -reconnect`` by TLS 1.2, until every acceptor has taken part in one run, `most` runs at most."""
    found = Resumptions()
    for _ in range(most):
        before = _accepted(symphony, acceptors)
        handshakes = _HANDSHAKE.findall(s_client(target, "-tls1_2", "-reconnect"))
        after = _accepted(symphony, acceptors)
        answered = {name: after[name] - before[name] for name in acceptors}
        found.by_acceptor.update(answered)
        expected = [("New", "TLSv1.2"), *[("Reused", "TLSv1.2")] * RECONNECTS]
        if handshakes == expected:
            found.resumed += RECONNECTS
        else:
            found.failures.append(f"{handshakes}, answered by {answered}")
        if all(answered.values()):
            break
    return found


def take_sessions_along(
    symphony: SymphonyProcess, target: Target, acceptors: tuple[str, ...], most: int
) -> Resumptions:
    """``s_client -sess_out`` then ``-sess_in`` by TLS 1.3, until every pair of acceptors was seen, `most` at most."""
    found = Resumptions()
    with tempfile.TemporaryDirectory(prefix="sy", dir="/tmp") as directory:
        session = str(Path(directory) / "session.pem")
        for _ in range(most):
            giver, first = _who(symphony, target, acceptors, "-tls1_3", "-sess_out", session)
            taker, second = _who(symphony, target, acceptors, "-tls1_3", "-sess_in", session)
            found.pairs[giver, taker] += 1
            found.by_acceptor.update((giver, taker))
            if (first, second) == (("New", "TLSv1.3"), ("Reused", "TLSv1.3")):
                found.resumed += 1
            else:
                found.failures.append(f"{first} by {giver}, then {second} by {taker}")
            if len(found.pairs) == len(acceptors) ** 2:
                break
    return found


def _who(
    symphony: SymphonyProcess, target: Target, acceptors: tuple[str, ...], *arguments: str
) -> tuple[str, tuple[str, str]]:
    """The acceptor that answered one call, and what the client says of the handshake."""
    before = _accepted(symphony, acceptors)
    output = s_client(target, *arguments)
    after = _accepted(symphony, acceptors)
    (name,) = [name for name in acceptors if after[name] != before[name]]
    return name, _HANDSHAKE.findall(output)[0]


def _accepted(symphony: SymphonyProcess, acceptors: tuple[str, ...]) -> dict[str, int]:
    return {name: symphony.acceptor(name).accepted for name in acceptors}
