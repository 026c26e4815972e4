"""The held connections of a running instance: which there are, and the decision about one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from symphony.api.asking import acceptors_in
from symphony.config.problem import Severity
from symphony.config.snapshot import Identity
from symphony.connection.ids import acceptor_of
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxClient, MailboxError, MailboxTimeout, ask
from symphony.messages.acceptor import AcceptorReply
from symphony.messages.events import Suspended
from symphony.messages.held import HeldPage, HeldResolved, HeldRoute, ListHeld, ResolveHeld
from symphony.tls.identity import Finding, Part, examine_identity

ANSWER_WITHIN_S = 5.0
IDENTITY_LIMIT = 512 * 1024
"""Bytes of certificate chain and key together; what goes to an actor's mailbox has at most 1 MiB."""

UNKNOWN = "unknown"


class HeldList(Struct, frozen=True):
    """What is held, in the order in which it came to each acceptor, and the acceptors that did not answer."""

    held: tuple[Suspended, ...]
    silent: tuple[str, ...]


class UnusableIdentity(ValueError):
    """A certificate or key that cannot be served with; `findings` say why."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("; ".join(f"the {finding.part.value} {finding.text}" for finding in findings))
        self.findings = tuple(findings)


async def list_held(runtime_dir: str) -> HeldList:
    """Ask every acceptor in `runtime_dir` what it holds."""
    names = acceptors_in(runtime_dir)
    answers = await asyncio.gather(*(_ask_one(mailbox_path(runtime_dir, name)) for name in names))
    return HeldList(
        tuple(held for answer in answers if answer is not None for held in answer),
        tuple(name for name, answer in zip(names, answers, strict=True) if answer is None),
    )


async def _ask_one(path: str) -> list[Suspended] | None:
    client = MailboxClient(path, AcceptorReply)
    found: dict[str, Suspended] = {}
    try:
        await client.connect()
        after = 0
        while True:
            page = await client.call(ListHeld(after), ANSWER_WITHIN_S)
            if not isinstance(page, HeldPage):
                return None
            found.update((held.id, held) for held in page.held)
            after = page.next
            if not after:
                return list(found.values())
    except MailboxError:
        return None
    finally:
        await client.close()


def check_identity(chain_pem: bytes, key_pem: bytes, now: datetime) -> tuple[Identity, tuple[Finding, ...]]:
    """A certificate chain (leaf first) and its key, for a resolution; and what clients may not like about them.

    Raises :class:`UnusableIdentity`.
    """
    if len(chain_pem) + len(key_pem) > IDENTITY_LIMIT:
        text = f"and the key are larger than {IDENTITY_LIMIT} bytes"
        raise UnusableIdentity([Finding(Part.CHAIN, text)])
    findings = examine_identity(chain_pem, key_pem, now)
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        raise UnusableIdentity(errors)
    return Identity(chain_pem, key_pem), findings


async def resolve_held(runtime_dir: str, connection_id: str, route: HeldRoute | None) -> str:
    """Forward the held connection `connection_id` as `route` says, or have it reset (None).

    Returns "forwarded", "rejected", or "unknown" for a connection that is not held, or not any more. Raises
    MailboxRefused with the reason when the route cannot be used, which leaves the connection held, and another
    MailboxError when the acceptor does not answer.
    """
    acceptor = acceptor_of(connection_id)
    if acceptor is None or acceptor not in acceptors_in(runtime_dir):
        return UNKNOWN
    message = ResolveHeld(connection_id, route)
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            path = mailbox_path(runtime_dir, acceptor)
            answer = await ask(path, message, AcceptorReply, ANSWER_WITHIN_S)
    except TimeoutError:
        raise MailboxTimeout(f"{acceptor}: no answer within {ANSWER_WITHIN_S:g} s") from None
    if not isinstance(answer, HeldResolved):
        raise MailboxError(f"{acceptor}: the answer is of another kind than was asked for")
    return answer.how
