"""Output for programs."""

from __future__ import annotations

from typing import Any

import click


def print_json(value: Any) -> None:
    """Print one JSON document, indented, on standard output. `value` is anything that msgspec encodes."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
