"""What a show is: something that the proxy promises, done at full size and told line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Show = Callable[[], Iterator[str]]
"""Yields lines as things happen. Raises :class:`NotKept`."""


class NotKept(Exception):
    """A promise was not kept; the text says how."""
