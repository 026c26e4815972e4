"""How actors talk: typed messages in length-prefixed frames over Unix sockets, and where those sockets are."""

from __future__ import annotations

from symphony.mailbox.address import (
    MailboxPathError,
    RuntimeDirBusy,
    RuntimeDirError,
    RuntimeLock,
    check_runtime_dir,
    live_pid,
    mailbox_path,
    prepare_runtime_dir,
)
from symphony.mailbox.client import (
    MailboxClient,
    MailboxDown,
    MailboxError,
    MailboxRefused,
    MailboxTimeout,
    ask,
)
from symphony.mailbox.envelope import PROTOCOL_VERSION, Envelope, EnvelopeDecoder, EnvelopeError, Refused
from symphony.mailbox.framing import FrameDecoder, FrameError, encode_frame
from symphony.mailbox.lifeline import Lifeline
from symphony.mailbox.server import Handler, MailboxServer, Sender

__all__ = [
    "PROTOCOL_VERSION",
    "Envelope",
    "EnvelopeDecoder",
    "EnvelopeError",
    "FrameDecoder",
    "FrameError",
    "Handler",
    "Lifeline",
    "MailboxClient",
    "MailboxDown",
    "MailboxError",
    "MailboxPathError",
    "MailboxRefused",
    "MailboxServer",
    "MailboxTimeout",
    "Refused",
    "RuntimeDirBusy",
    "RuntimeDirError",
    "RuntimeLock",
    "Sender",
    "ask",
    "check_runtime_dir",
    "encode_frame",
    "live_pid",
    "mailbox_path",
    "prepare_runtime_dir",
]
