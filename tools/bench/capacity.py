"""What one machine holds, worked out from what was measured for one connection."""

from __future__ import annotations

from msgspec import Struct

RESERVE = 0.2
"""Part of the memory that is left for everything else: data under way, page cache, other programs."""
PER_ACCEPTOR_DESCRIPTORS = 300
"""Descriptors that an acceptor has open besides its connections', with a good margin."""
SPREAD = 0.95
"""The kernel spreads connections over acceptors by a hash: they are not quite equal, and the fullest is the limit."""


class Costs(Struct, kw_only=True, frozen=True):
    """What was measured: bytes and descriptors of the proxy per idle connection, and what it takes without any.

    `idle_ns_per_s` is the CPU of an idle connection, `idle_noise_ns_per_s` how much of that may be chance.
    """

    user_bytes: float
    kernel_bytes: float
    descriptors: float
    idle_ns_per_s: float
    idle_noise_ns_per_s: float
    tree_bytes: float
    acceptor_bytes: float


class Machine(Struct, kw_only=True, frozen=True):
    """A machine to plan for."""

    memory_gib: int
    cores: int


class Plan(Struct, kw_only=True, frozen=True):
    """What it holds: the connections that its memory has room for, and what they need besides."""

    machine: Machine
    connections: int
    descriptors_per_acceptor: int
    reconnect_s: float


def plan(machine: Machine, costs: Costs, connection_cpu_us: float) -> Plan:
    """Return what a machine holds with one acceptor per core.

    `connection_cpu_us` is what a connection with a full handshake costs: everybody comes back after a restart.
    """
    memory = machine.memory_gib * 2**30 * (1 - RESERVE)
    left = memory - costs.tree_bytes - machine.cores * costs.acceptor_bytes
    connections = max(0, int(left / (costs.user_bytes + costs.kernel_bytes)))
    per_acceptor = connections / machine.cores / SPREAD
    return Plan(
        machine=machine,
        connections=connections,
        descriptors_per_acceptor=int(per_acceptor * costs.descriptors) + PER_ACCEPTOR_DESCRIPTORS,
        reconnect_s=connections * connection_cpu_us / 1e6 / machine.cores,
    )


def per_acceptor(descriptors: int) -> int:
    """Return how many connections an acceptor can be trusted with when it may open so many descriptors."""
    return max(1, int((descriptors - PER_ACCEPTOR_DESCRIPTORS) / 2 * SPREAD))


def acceptors_for(connections: int, descriptors: int) -> int:
    """Return how many acceptors it takes to hold so many connections within that limit of descriptors."""
    return -(-connections // per_acceptor(descriptors))
