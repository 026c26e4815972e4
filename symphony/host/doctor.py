"""Looks at the machine with a proxy's eyes: what would limit it, what is missing, and what to change.

Each check is one function from a :class:`Machine` to a finding. A machine's files are read below a root directory, so
that any machine can be looked at, real or made up.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from msgspec import Struct

from symphony.config.snapshot import ListenerEntry
from symphony.host.descriptors import BESIDES, PER_CONNECTION, needed

BACKLOG = 4096
"""What the listening sockets ask for (symphony.api.listening)."""
_MANY_DESCRIPTORS = 65536
_EPHEMERAL_PORTS = 20_000
_CAP_NET_BIND_SERVICE = 10
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_BUILT = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
_SLOW_CLOCKS = frozenset({"hpet", "acpi_pm", "jiffies", "refined-jiffies"})
_SYSCTL_FILE = "put it into /etc/sysctl.d/90-symphony.conf and run: sysctl --system"


class Health(StrEnum):
    """How bad it is: fine; it will limit something; it will not work."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(Struct, frozen=True):
    """What one check found, and what to change; no advice where nothing is to be done."""

    check: str
    health: Health
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where to look. `listeners` are those of a configuration, empty when none was named; `user` is its `user`."""

    root: str = "/"
    listeners: Sequence[ListenerEntry] = ()
    user: str = ""

    def text(self, path: str) -> str | None:
        """The content of a file, stripped; None when it is not there or not for this user."""
        try:
            with open(os.path.join(self.root, path)) as file:
                return file.read().strip()
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """The first number in a file."""
        words = (self.text(path) or "").split()
        return int(words[0]) if words and words[0].lstrip("-").isdecimal() else None


def examine(machine: Machine) -> tuple[Finding, ...]:
    """Carry out every check; those that do not apply here are left out."""
    findings = (check(machine) for check in CHECKS)
    return tuple(finding for finding in findings if finding is not None)


def _descriptors(machine: Machine) -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    largest = machine.number("proc/sys/fs/nr_open") or hard
    have = largest if hard == resource.RLIM_INFINITY else min(hard, largest)
    wanted = needed(machine.listeners) if machine.listeners else None
    fits = max(0, (have - BESIDES) // PER_CONNECTION)
    found = f"hard limit {have} per process, enough for {fits} connections in each acceptor"
    advice = "LimitNOFILE=1048576 in the systemd unit, --ulimit nofile= for a container, or /etc/security/limits.conf"
    if wanted is not None and wanted > have:
        return Finding(
            "descriptors", Health.ERROR, f"{found}; the configuration needs {wanted} descriptors", advice
        )
    if have < _MANY_DESCRIPTORS and wanted is None:
        return Finding("descriptors", Health.WARNING, found, advice)
    return Finding("descriptors", Health.OK, found)


def _open_files(machine: Machine) -> Finding | None:
    most = machine.number("proc/sys/fs/file-max")
    if most is None:
        return None
    if most < 2 * _MANY_DESCRIPTORS:
        advice = f"fs.file-max = 2097152: {_SYSCTL_FILE}"
        return Finding("open files", Health.WARNING, f"{most} on the whole machine (fs.file-max)", advice)
    return Finding("open files", Health.OK, f"{most} on the whole machine (fs.file-max)")


def _backlog(machine: Machine) -> Finding | None:
    most = machine.number("proc/sys/net/core/somaxconn")
    if most is None:
        return None
    found = f"{most} connections may wait to be accepted on a socket (net.core.somaxconn)"
    if most < BACKLOG:
        return Finding("backlog", Health.WARNING, found, f"net.core.somaxconn = {BACKLOG}: {_SYSCTL_FILE}")
    return Finding("backlog", Health.OK, found)


def _handshakes(machine: Machine) -> Finding | None:
    most = machine.number("proc/sys/net/ipv4/tcp_max_syn_backlog")
    cookies = machine.number("proc/sys/net/ipv4/tcp_syncookies")
    if most is None:
        return None
    found = f"{most} TCP handshakes at once (net.ipv4.tcp_max_syn_backlog), SYN cookies {'on' if cookies else 'off'}"
    if not cookies:
        return Finding("SYN flood", Health.WARNING, found, f"net.ipv4.tcp_syncookies = 1: {_SYSCTL_FILE}")
    return Finding("SYN flood", Health.OK, found)


def _ports(machine: Machine) -> Finding | None:
    words = (machine.text("proc/sys/net/ipv4/ip_local_port_range") or "").split()
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        return None
    first, last = map(int, words)
    found = f"{last - first + 1} ports for connections to one upstream (net.ipv4.ip_local_port_range = {first} {last})"
    if last - first + 1 < _EPHEMERAL_PORTS:
        advice = (
            f"net.ipv4.ip_local_port_range = 1024 65535, or Unix sockets to the upstreams: {_SYSCTL_FILE}"
        )
        return Finding("port range", Health.WARNING, found, advice)
    inside = [entry.id for entry in machine.listeners if first <= entry.port <= last]
    if inside:
        text = f"{found}; {', '.join(inside)} is in it, and a connection of somebody else may take it"
        ports = ",".join(str(entry.port) for entry in machine.listeners if first <= entry.port <= last)
        advice = f"net.ipv4.ip_local_reserved_ports = {ports}: {_SYSCTL_FILE}"
        reserved = machine.text("proc/sys/net/ipv4/ip_local_reserved_ports") or ""
        if not all(port in _ranges(reserved) for port in map(int, ports.split(","))):
            return Finding("port range", Health.WARNING, text, advice)
    return Finding("port range", Health.OK, found)


def _ranges(text: str) -> set[int]:
    """The numbers in a list such as ``8080,9000-9005``."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def _low_ports(machine: Machine) -> Finding | None:
    lowest = machine.number("proc/sys/net/ipv4/ip_unprivileged_port_start")
    low = [entry.id for entry in machine.listeners if 0 < entry.port < (1024 if lowest is None else lowest)]
    if not low:
        return None
    found = f"{', '.join(low)} needs root or CAP_NET_BIND_SERVICE"
    status = machine.text("proc/self/status") or ""
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    if int(effective, 16) >> _CAP_NET_BIND_SERVICE & 1:
        return Finding("low ports", Health.OK, f"{found}, and this user has it")
    advice = (
        "AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit, its socket unit, or root with `user`"
    )
    return Finding("low ports", Health.ERROR, found, advice)


def _connection_tracking(machine: Machine) -> Finding | None:
    most = machine.number("proc/sys/net/netfilter/nf_conntrack_max")
    if most is None:
        return None
    found = f"the firewall follows {most} connections at most (net.netfilter.nf_conntrack_max)"
    if most < 4 * _MANY_DESCRIPTORS:
        advice = f"net.netfilter.nf_conntrack_max = 2097152, or no tracking of these ports: {_SYSCTL_FILE}"
        return Finding("connection tracking", Health.WARNING, found, advice)
    return Finding("connection tracking", Health.OK, found)


def _watches(machine: Machine) -> Finding | None:
    most = machine.number("proc/sys/fs/inotify/max_user_watches")
    instances = machine.number("proc/sys/fs/inotify/max_user_instances")
    if most is None or instances is None:
        return None
    found = f"{most} directories and {instances} programs may watch files, per user (fs.inotify)"
    if most < 8192 or instances < 128:
        advice = "fs.inotify.max_user_watches = 65536, fs.inotify.max_user_instances = 1024"
        return Finding("file watches", Health.WARNING, found, f"{advice}: {_SYSCTL_FILE}")
    return Finding("file watches", Health.OK, found)


def _kernel(machine: Machine) -> Finding:
    release = machine.text("proc/sys/kernel/osrelease") or platform.release()
    numbers = release.split("-")[0].split(".")
    version = tuple(int(number) for number in numbers[:2] if number.isdecimal())
    found = f"Linux {release}"
    if version < (5, 4):
        return Finding(
            "kernel", Health.ERROR, found, "5.4 or newer: older ones have no process descriptors (pidfd)"
        )
    return Finding("kernel", Health.OK, found)


def _openssl(machine: Machine) -> Finding:
    from OpenSSL import SSL

    version = SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()
    if SSL.OPENSSL_VERSION_NUMBER < 0x30000000:
        return Finding(
            "OpenSSL", Health.ERROR, version, "a newer cryptography package: pip install -U cryptography"
        )
    return Finding("OpenSSL", Health.OK, f"{version}, of the cryptography package")


def _packages(machine: Machine) -> Finding:
    from importlib.util import find_spec

    strange = [name for name in ("supervisor.tree", "actors.runtime") if not _has_module(find_spec, name)]
    if strange:
        advice = (
            "an environment of its own: another distribution has overwritten a package (see README, Install)"
        )
        return Finding("packages", Health.ERROR, f"{' and '.join(strange)} is not Symphony's", advice)
    return Finding("packages", Health.OK, f"Python {platform.python_version()}, nothing overwritten")


def _has_module(find_spec: Callable[[str], object], name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _clock(machine: Machine) -> Finding:
    now = time.time()
    shown = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC")
    advice = "a time service, such as systemd-timesyncd or chrony: certificates are judged by the clock"
    if now < _BUILT:
        return Finding("clock", Health.ERROR, f"{shown}, which is in the past", advice)
    source = machine.text("sys/devices/system/clocksource/clocksource0/current_clocksource") or ""
    if source in _SLOW_CLOCKS:
        text = f"{shown}, read from {source}, which is slow"
        return Finding(
            "clock", Health.WARNING, text, "tsc or kvm-clock as clock source, if the machine has it"
        )
    if not _is_synchronised():
        return Finding("clock", Health.WARNING, f"{shown}, not synchronised with any other", advice)
    return Finding("clock", Health.OK, f"{shown}, synchronised")


def _is_synchronised() -> bool:
    """Whether the kernel was told so by a time service (adjtimex(2)); True where it does not tell."""
    room = ctypes.create_string_buffer(512)  # struct timex, all zero: change nothing
    return bool(ctypes.CDLL(None).adjtimex(room) != _TIME_ERROR)


def _processors(machine: Machine) -> Finding:
    cpus = len(os.sched_getaffinity(0))
    words = (machine.text("sys/fs/cgroup/cpu.max") or "").split()
    if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal():
        share = int(words[0]) / int(words[1])
        if share < cpus:
            text = f"{cpus} CPUs, of which this container may use {share:g}"
            return Finding("CPUs", Health.WARNING, text, f"workers = {max(1, round(share))}")
    return Finding("CPUs", Health.OK, f"{cpus}, one acceptor each")


def _root(machine: Machine) -> Finding | None:
    if os.geteuid() or machine.user:
        return None
    advice = 'user = "symphony" in the configuration, or User= in the systemd unit'
    return Finding("user", Health.WARNING, "root, and connections would be served by root", advice)


CHECKS: tuple[Callable[[Machine], Finding | None], ...] = (
    _kernel,
    _openssl,
    _packages,
    _processors,
    _clock,
    _descriptors,
    _open_files,
    _backlog,
    _handshakes,
    _ports,
    _low_ports,
    _connection_tracking,
    _watches,
    _root,
)
