"""The doctor on machines that are made up of files, and on this one."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from symphony.config.snapshot import ListenerEntry
from symphony.host.doctor import CHECKS, Finding, Health, Machine, examine
from tests.support.forked import in_child

HEALTHY = {
    "proc/sys/fs/nr_open": "1048576",
    "proc/sys/fs/file-max": "9223372036854775807",
    "proc/sys/net/core/somaxconn": "4096",
    "proc/sys/net/ipv4/tcp_max_syn_backlog": "4096",
    "proc/sys/net/ipv4/tcp_syncookies": "1",
    "proc/sys/net/ipv4/ip_local_port_range": "32768\t60999",
    "proc/sys/net/ipv4/ip_local_reserved_ports": "",
    "proc/sys/net/ipv4/ip_unprivileged_port_start": "1024",
    "proc/sys/net/netfilter/nf_conntrack_max": "1000000",
    "proc/sys/fs/inotify/max_user_watches": "65536",
    "proc/sys/fs/inotify/max_user_instances": "128",
    "proc/sys/kernel/osrelease": "6.1.0-13-amd64",
    "proc/self/status": "Name:\tx\nCapEff:\t0000000000000000\n",
    "sys/fs/cgroup/cpu.max": "max 100000",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
}
Made = Callable[..., Machine]


def listener(port: int, max_connections: int = 0) -> ListenerEntry:
    return ListenerEntry(f"127.0.0.1:{port}", "127.0.0.1", port, max_connections, 60_000, 10_000)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Make a machine that is healthy but for what is given; a file with None is not there."""

    def make(*listeners: ListenerEntry, user: str = "symphony", **changed: str | None) -> Machine:
        for path, content in {**HEALTHY, **{_path(key): value for key, value in changed.items()}}.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if content is not None:
                file.write_text(content + "\n")
        return Machine(str(tmp_path), listeners, user)

    return make


def _path(name: str) -> str:
    return next(path for path in HEALTHY if os.path.basename(path).replace("-", "_") == name)


def named(machine: Machine, check: str) -> Finding | None:
    return next((finding for finding in examine(machine) if finding.check == check), None)


def test_a_healthy_machine_needs_no_advice(made: Made) -> None:
    for finding in examine(made(listener(8443))):
        if finding.check not in ("clock", "descriptors"):  # of this machine, not of the one that is made up
            assert (finding.health, finding.advice) == (Health.OK, ""), finding


def test_a_machine_that_tells_nothing_is_examined_all_the_same(tmp_path: Path) -> None:
    found = examine(Machine(str(tmp_path)))
    assert {"kernel", "OpenSSL", "clock", "descriptors"} <= {finding.check for finding in found}
    assert len(found) < len(CHECKS)


@pytest.mark.parametrize(
    ("check", "changed", "advice"),
    [
        ("open files", {"file_max": "10000"}, "fs.file-max"),
        ("backlog", {"somaxconn": "128"}, "net.core.somaxconn = 4096"),
        ("SYN flood", {"tcp_syncookies": "0"}, "tcp_syncookies = 1"),
        ("port range", {"ip_local_port_range": "50000\t60999"}, "ip_local_port_range = 1024 65535"),
        ("connection tracking", {"nf_conntrack_max": "65536"}, "nf_conntrack_max"),
        ("file watches", {"max_user_instances": "16"}, "max_user_instances"),
        ("clock", {"current_clocksource": "hpet"}, "tsc"),
        ("CPUs", {"cpu.max": "50000 100000"}, "workers = 1"),
    ],
)
def test_what_would_limit_it(made: Made, check: str, changed: dict[str, str], advice: str) -> None:
    finding = named(made(**changed), check)
    assert finding is not None and finding.health is Health.WARNING, finding
    assert advice in finding.advice


def test_an_old_kernel(made: Made) -> None:
    finding = named(made(osrelease="4.19.0-amd64"), "kernel")
    assert finding is not None and finding.health is Health.ERROR
    assert named(made(osrelease="5.4.0"), "kernel").health is Health.OK  # type: ignore[union-attr]


def test_a_listener_inside_the_port_range(made: Made) -> None:
    finding = named(made(listener(50443)), "port range")
    assert finding is not None and "ip_local_reserved_ports = 50443" in finding.advice
    reserved = made(listener(50443), ip_local_reserved_ports="9000,50440-50450")
    assert named(reserved, "port range").health is Health.OK  # type: ignore[union-attr]


def test_ports_for_which_one_needs_a_right(made: Made) -> None:
    assert named(made(listener(8443)), "low ports") is None
    finding = named(made(listener(443)), "low ports")
    assert finding is not None and finding.health is Health.ERROR
    able = made(listener(443), status="Name:\tx\nCapEff:\t0000000000000400")
    assert named(able, "low ports").health is Health.OK  # type: ignore[union-attr]
    assert named(made(listener(443), ip_unprivileged_port_start="80"), "low ports") is None


def test_descriptors_are_held_against_the_configuration(made: Made) -> None:
    def with_limit(hard: int, machine: Machine) -> Finding | None:
        def go() -> Finding | None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 500), hard))
            return named(machine, "descriptors")

        found: Finding | None = in_child(go)
        return found

    short = with_limit(5000, made(listener(8443, 10_000)))
    assert short is not None and short.health is Health.ERROR
    assert "needs 21024" in short.found and "LimitNOFILE=" in short.advice
    assert with_limit(5000, made(listener(8443, 100))).health is Health.OK  # type: ignore[union-attr]
    assert with_limit(5000, made()).health is Health.WARNING  # type: ignore[union-attr]


def test_root_without_a_user(made: Made) -> None:
    finding = named(made(user=""), "user")
    assert (finding is not None) is (os.geteuid() == 0)
    assert named(made(user="symphony"), "user") is None
