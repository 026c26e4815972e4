"""The admin actor's mailbox."""

from __future__ import annotations

from msgspec import Struct

from symphony.mailbox.envelope import Refused


class DescribeAdmin(Struct, frozen=True, array_like=True, tag=True):
    """Ask for :class:`AdminDescription`."""


class AdminDescription(Struct, frozen=True, array_like=True, tag=True):
    """Where the admin interface listens: ``unix:/path`` and ``host:port``."""

    addresses: tuple[str, ...]


AdminRequest = DescribeAdmin
AdminReply = AdminDescription | Refused
