"""What the kernel knows of processes: their sockets, limits and memory, and how to make one stand still."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tools.chaos.records import Address

FREEZE_WITHIN_S = 2.0
_SOCK_DIAG = 4
_BY_FAMILY = 20
_REQUEST_DUMP = 0x301
# TCP_ESTABLISHED, both FIN-WAITs, CLOSE-WAIT, LAST-ACK and CLOSING, by their numbers.
_STATES = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11


class ProcessGone(Exception):
    """The process has ended."""


def state(pid: int) -> str:
    """The state letter of proc_pid_stat(5). Raises ProcessGone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGone(str(pid)) from None


def freeze(pid: int) -> None:
    """Stop a process, and return when it stands still. Raises ProcessGone."""
    try:
        os.kill(pid, signal.SIGSTOP)
    except ProcessLookupError:
        raise ProcessGone(str(pid)) from None
    deadline = time.monotonic() + FREEZE_WITHIN_S
    while (now := state(pid)) not in "Tt":
        if now in "ZX" or time.monotonic() > deadline:
            raise ProcessGone(str(pid))
        time.sleep(0.0005)


def sockets_of(pid: int) -> set[int]:
    """The inodes of a process' sockets."""
    found = set()
    for target in _targets(pid):
        if target.startswith("socket:["):
            found.add(int(target[8:-1]))
    return found


def descriptors(pid: int) -> tuple[int, int]:
    """How many sockets a process has open, and how many descriptors of other kinds."""
    targets = list(_targets(pid))
    sockets = sum(target.startswith("socket:[") for target in targets)
    return sockets, len(targets) - sockets


def private_kib(pid: int) -> int:
    """The memory that a process has to itself, in KiB."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(
            int(line.split()[1]) for line in file if line.startswith(("Private_Clean", "Private_Dirty"))
        )


def _targets(pid: int) -> Iterator[str]:
    try:
        entries = os.listdir(f"/proc/{pid}/fd")
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGone(str(pid)) from None
    for entry in entries:
        try:
            yield os.readlink(f"/proc/{pid}/fd/{entry}")
        except OSError:
            continue


def clients_of(pid: int, ports: Iterable[int]) -> frozenset[Address]:
    """The far ends of the connections to local `ports` that a process has accepted and not closed.

    Exact for a process that stands still. What waits in the queue of a listening socket belongs to no process yet.
    """
    inodes = sockets_of(pid)
    return frozenset(address for port in ports for inode, address in connections_to(port) if inode in inodes)


def connections_to(port: int) -> Iterator[tuple[int, Address]]:
    """The inodes and far ends of all IPv4 connections to a local port, by sock_diag(7).

    ``/proc/net/tcp`` says the same, but walks through every connection of the machine, and those in TIME-WAIT: half a
    second for 40,000 of them, in which a stopped process would be missed.
    """
    # struct inet_diag_req_v2: family, protocol, extensions, padding, states, then the socket's id.
    ident = struct.pack(">HH", port, 0) + bytes(44)
    request = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, _STATES) + ident
    header = struct.pack("=IHHII", 16 + len(request), _BY_FAMILY, _REQUEST_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as sock:
        sock.settimeout(FREEZE_WITHIN_S)
        sock.send(header + request)
        while True:
            data = sock.recv(1 << 16)
            at = 0
            while at < len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                if kind != _BY_FAMILY:  # the end of the list, or an error instead of it
                    return
                far_port = struct.unpack_from(">H", data, at + 22)[0]
                host = socket.inet_ntoa(data[at + 40 : at + 44])
                yield struct.unpack_from("=I", data, at + 84)[0], (host, far_port)
                at += (length + 3) & ~3


@contextmanager
def tenth_of_a_cpu(pid: int) -> Iterator[None]:
    """Let a process run for a tenth of the time while the block lasts, without keeping a CPU busy for it."""
    over = threading.Event()

    def toggle() -> None:
        try:
            while not over.is_set():
                os.kill(pid, signal.SIGSTOP)
                over.wait(0.045)
                os.kill(pid, signal.SIGCONT)
                over.wait(0.005)
        except ProcessLookupError:
            pass  # who starved it will notice that it is gone

    thread = threading.Thread(target=toggle, name="starve", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def no_more_descriptors(pid: int, spare: int) -> Iterator[None]:
    """Let a process open only `spare` descriptors more than it has, while the block lasts."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    _, hard = before
    # The limit is on the number of a new descriptor, not on how many there are: the gaps below have to be counted.
    used = sorted(map(int, os.listdir(f"/proc/{pid}/fd")))
    free = (number for number in itertools.count() if number not in set(used))
    limit = max(next(itertools.islice(free, spare, None)), 1)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        try:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        except ProcessLookupError:
            pass
