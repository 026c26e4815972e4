"""What the kernel holds for everybody, and the limits that it sets: from /proc, machine-wide.

The kernel keeps a socket in several objects of its slab caches: the protocol's socket, inode, dentry, file, epoll
entries. Only caches that sockets are in are looked at: others grow with whatever else the machine does.
"""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tools.bench.cpu import parse_sizes

RESET_AT_CLOSE = struct.pack("ii", 1, 0)
"""For SO_LINGER: thousands of connections in TIME_WAIT would outlive the measurement."""
ALWAYS = frozenset(("TCP", "UNIX", "sock_inode_cache", "dentry", "filp", "eventpoll_epi", "eventpoll_pwq"))
"""Caches that sockets are in on every kernel, unless merged into another."""
_BESIDE_INODES = frozenset(("dentry", "lsm_inode_cache"))
SAMPLE_PAIRS = 500
"""Pairs of sockets of each kind that are opened to find out which caches they are in."""
SMALLEST_PART = 0.4
"""Objects a socket: what grows less is somebody else's doing. A kind that every other socket is of has 0.5."""

SYSCTLS = (
    "fs/file-max", "fs/nr_open", "net/core/somaxconn", "net/ipv4/ip_local_port_range", "net/ipv4/tcp_mem",
    "net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem", "net/ipv4/tcp_max_syn_backlog", "net/ipv4/tcp_max_orphans",
    "net/netfilter/nf_conntrack_max", "vm/overcommit_memory",
)  # fmt: skip


class Unreadable(Exception):
    """A file of /proc cannot be read here; says which and why."""


class Cache(NamedTuple):
    """One slab cache: objects in use, and the bytes of all its slabs."""

    objects: int
    size: int


def parse_slabinfo(text: str) -> dict[str, Cache]:
    """Return the caches by name from the text of /proc/slabinfo (slabinfo(5))."""
    caches = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 16 and fields[0] != "#":
            pages_per_slab, slabs = int(fields[5]), int(fields[14])
            caches[fields[0]] = Cache(int(fields[1]), slabs * pages_per_slab * resource.getpagesize())
    return caches


def slab_caches() -> dict[str, Cache]:
    """Return every cache by name. Raises Unreadable: the file is root's."""
    try:
        return parse_slabinfo(Path("/proc/slabinfo").read_text())
    except OSError as error:
        raise Unreadable(f"the kernel's memory cannot be measured here: {error}") from error


def grown(before: Mapping[str, Cache], after: Mapping[str, Cache], sockets: int) -> set[str]:
    """Return the caches that have grown with a number of sockets."""
    none = Cache(0, 0)
    return {
        name
        for name, cache in after.items()
        if cache.objects - before.get(name, none).objects >= SMALLEST_PART * sockets
    }


def sizes_of(names: Iterable[str], caches: Mapping[str, Cache]) -> dict[str, int]:
    """Return the bytes in the named caches, without what programs that look around in /proc leave in them.

    Whoever lists /proc/<pid>/fd makes an inode for every descriptor there, with an entry in each of `_BESIDE_INODES`.
    """
    visits = caches.get("proc_inode_cache", Cache(0, 0)).objects
    sizes = {}
    for name in names:
        objects, size = caches.get(name, Cache(0, 0))
        own = max(0, objects - visits) if name in _BESIDE_INODES else objects
        sizes[name] = round(size * own / objects) if objects else size
    return sizes


def socket_caches() -> set[str]:
    """Return the caches that the kernel keeps connections in. Raises Unreadable.

    Those are the ones that are known, and those that grow when this opens some sockets.

    Names do not tell: caches of equal size are one, under the name of the first, so that a Unix socket may well lie
    in `signal_cache`.
    """
    with contextlib.ExitStack() as stack:
        before = slab_caches()
        epoll = stack.enter_context(select.epoll())
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=SAMPLE_PAIRS))
        for _ in range(SAMPLE_PAIRS):
            client = socket.create_connection(listener.getsockname())
            for sock in (client, listener.accept()[0], *socket.socketpair()):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
                epoll.register(stack.enter_context(sock), select.EPOLLIN)
        return grown(before, slab_caches(), 4 * SAMPLE_PAIRS) | (ALWAYS & before.keys())


def _memory() -> dict[str, int]:
    return parse_sizes(Path("/proc/meminfo").read_text())


def total_bytes() -> int:
    """Return the size of the memory."""
    return _memory()["MemTotal"]


def available_bytes() -> int:
    """Return how much memory programs can still have (MemAvailable)."""
    return _memory()["MemAvailable"]


def parse_sockstat(text: str) -> dict[str, int]:
    """Return the TCP line of /proc/net/sockstat: `inuse`, `orphan`, `tw`, `alloc`, and `mem` in pages."""
    for line in text.splitlines():
        kind, _, rest = line.partition(":")
        if kind == "TCP":
            words = rest.split()
            return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}
    raise ValueError("no TCP line in sockstat")


def tcp_buffer_bytes() -> int:
    """Return the memory of all data waiting in TCP sockets."""
    return parse_sockstat(Path("/proc/net/sockstat").read_text())["mem"] * resource.getpagesize()


def limits() -> dict[str, str]:
    """Return the limits that connections run into, as this machine has them; those it has not are left out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = {"open descriptors per process (soft, hard)": f"{soft:,}, {hard:,}"}
    for name in SYSCTLS:
        path = Path("/proc/sys") / name
        if path.exists():
            found[name.replace("/", ".")] = " ".join(path.read_text().split())
    return found
