"""What travels in one frame between actors: an envelope around one message of the mailbox's union."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

PROTOCOL_VERSION = 1

Body = TypeVar("Body")

# msgspec lets the last two through: a string that is not UTF-8, and values nested a thousand deep.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Envelope(Struct, Generic[Body], array_like=True, frozen=True, gc=False):
    """One message on its way.

    `id` is 0 for a message that nobody answers (a cast, a push); a reply repeats the id of its request.
    `deadline` is the time.monotonic() second after which the sender no longer waits, 0.0 for none; the clock is
    the machine's, so both ends read the same one.
    """

    version: int
    id: int
    deadline: float
    body: Body


class Refused(Struct, array_like=True, frozen=True, tag="Refused"):
    """The request was understood but could not be served. Every reply union has it, so all tags are strings."""

    reason: str


class EnvelopeError(Exception):
    """A payload that is no envelope of this version with a message of this mailbox."""


class EnvelopeDecoder:
    """Decodes payloads into envelopes whose body is one of `messages`, a tagged struct or a union of them."""

    __slots__ = ("_decode",)

    def __init__(self, messages: Any) -> None:
        decoder: msgspec.msgpack.Decoder[Envelope[Any]]
        decoder = msgspec.msgpack.Decoder(Envelope[messages])
        self._decode = decoder.decode

    def decode(self, payload: bytes) -> Envelope[Any]:
        """Return the envelope in `payload`.

        :raises EnvelopeError: not msgpack, another protocol version, or not one of the mailbox's messages.
        """
        try:
            envelope = self._decode(payload)
        except _UNREADABLE as error:
            # Another version may have another body: say that it is the version rather than a field in the body.
            raise EnvelopeError(_other_version(payload) or str(error)) from error
        if envelope.version != PROTOCOL_VERSION:
            raise EnvelopeError(_wrong_version(envelope.version))
        return envelope


def _other_version(payload: bytes) -> str | None:
    try:
        version = msgspec.msgpack.decode(payload, type=tuple[int, msgspec.Raw, msgspec.Raw, msgspec.Raw])[0]
    except _UNREADABLE:
        return None
    return None if version == PROTOCOL_VERSION else _wrong_version(version)


def _wrong_version(version: int) -> str:
    return f"protocol version {version}, this side speaks {PROTOCOL_VERSION}"
