"""Ports that stay free until they are wanted."""

from __future__ import annotations

from tools.bench.ports import free_port


def lasting_port() -> int:
    """A port that is free on all addresses, and that the kernel gives to no client in the meantime."""
    return free_port()
