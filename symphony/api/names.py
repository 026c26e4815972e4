"""The names of actors that others ask: their mailboxes are called so."""

from __future__ import annotations

SUPERVISOR = "supervisor"
CONTROL = "control"
REGISTRY = "route-registry"
LIMITER = "rate-limiter"
