"""Holding connections: parsing of /proc, slopes, what a machine holds, and the document."""

from __future__ import annotations

import os
import resource

import pytest

from tools.bench import capacity, hold, hold_report, holders, kernel
from tools.bench.capacity import Costs
from tools.bench.figures import spread
from tools.bench.holder import client_hello
from tools.bench.outcome import Machine

_SLABINFO = """slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>
TCP                   78    130   2368   13    8 : tunables    0    0    0 : slabdata     10     10      0
dentry            110816 111174    192   21    1 : tunables    0    0    0 : slabdata   5294   5294      0
"""  # noqa: E501
_SOCKSTAT = """sockets: used 16
TCP: inuse 5 orphan 1 tw 3871 alloc 7 mem 3
UDP: inuse 0 mem 0
"""
GIB = 2**30


def _costs(**changes: float) -> Costs:
    values = {
        "user_bytes": 20_000.0, "kernel_bytes": 5_000.0, "descriptors": 2.0, "idle_ns_per_s": 0.0,
        "idle_noise_ns_per_s": 50.0, "tree_bytes": 0.0, "acceptor_bytes": 0.0,
    }  # fmt: skip
    return Costs(**{**values, **changes})


def _level(held: int, **changes: object) -> hold.HoldLevel:
    values: dict[str, object] = {
        "held": held,
        "seconds": 1.0,
        "opening_cpu_ns": 0,
        "idle_ns_per_s": 8e6 + 30 * held,
        "user_bytes": 40_000_000 + 20_000 * held,
        "kernel_bytes": 70_000_000 + 12_000 * held,
        "caches": {"TCP": 5_000 * held, "dentry": 30_000_000 + 800 * held},
        "descriptors": 50 + 2 * held,
        "fewest": 1,
        "most": 2,
    }
    return hold.HoldLevel(**{**values, **changes})  # type: ignore[arg-type]


def test_slab_caches_are_read_with_their_whole_slabs() -> None:
    page = resource.getpagesize()
    assert kernel.parse_slabinfo(_SLABINFO) == {"TCP": (78, 80 * page), "dentry": (110816, 5294 * page)}


def test_only_caches_that_grow_with_sockets_count() -> None:
    before = {"TCP": kernel.Cache(10, 1), "dentry": kernel.Cache(100, 1), "ext4": kernel.Cache(7, 1)}
    after = {
        "TCP": kernel.Cache(510, 1),
        "dentry": kernel.Cache(1100, 1),
        "ext4": kernel.Cache(300, 1),
        "new": kernel.Cache(400, 1),
    }
    assert kernel.grown(before, after, 1000) == {"TCP", "dentry", "new"}


def test_what_others_leave_by_listing_proc_is_taken_out() -> None:
    caches = {
        "TCP": kernel.Cache(100, 250_000), "dentry": kernel.Cache(1000, 200_000),
        "proc_inode_cache": kernel.Cache(250, 1), "empty": kernel.Cache(0, 4096),
    }  # fmt: skip
    sizes = kernel.sizes_of(["TCP", "dentry", "empty", "none"], caches)
    assert sizes == {"TCP": 250_000, "dentry": 150_000, "empty": 4096, "none": 0}


def test_tcp_memory_is_read_from_sockstat() -> None:
    assert kernel.parse_sockstat(_SOCKSTAT) == {"inuse": 5, "orphan": 1, "tw": 3871, "alloc": 7, "mem": 3}
    with pytest.raises(ValueError, match="no TCP line"):
        kernel.parse_sockstat("sockets: used 16\n")


def test_limits_name_what_this_machine_has() -> None:
    found = kernel.limits()
    assert found["open descriptors per process (soft, hard)"]
    assert found["fs.nr_open"].isdigit()


@pytest.mark.skipif(os.geteuid() != 0, reason="/proc/slabinfo is for root")
def test_sockets_are_found_in_the_kernels_caches() -> None:
    assert "sock_inode_cache" in kernel.socket_caches()


def test_costs_are_slopes_and_half_of_the_kernels() -> None:
    levels = [_level(held) for held in (100, 1000, 2000)]
    costs, caches = hold.per_connection(levels, 20e6, 8e6)
    assert costs.user_bytes == pytest.approx(20_000)
    assert costs.kernel_bytes == pytest.approx(6_000)
    assert costs.descriptors == pytest.approx(2)
    assert costs.idle_ns_per_s == pytest.approx(30)
    assert (costs.tree_bytes, costs.acceptor_bytes) == (20e6, 8e6)
    assert list(caches) == ["TCP", "dentry"]
    assert caches["dentry"] == pytest.approx(400)


def test_levels_begin_with_a_few_and_end_with_all() -> None:
    assert hold.levels_of(20_000, 4) == [1000, 5000, 10_000, 15_000, 20_000]
    assert hold.levels_of(100, 1) == [5, 100]


def test_connections_are_shared_out_to_the_last_one() -> None:
    assert holders.share(10, 3) == [3, 3, 4]
    assert sum(holders.share(99_999, 7)) == 99_999


def test_every_client_process_has_addresses_of_its_own() -> None:
    addresses = [holders.source(number) for number in range(600)]
    assert addresses[:2] == ["127.1.0.1", "127.1.0.2"]
    assert addresses[250] == "127.1.1.1"
    assert len(set(addresses)) == 600


def test_memory_decides_what_a_machine_holds() -> None:
    machine = capacity.Machine(memory_gib=1, cores=2)
    plan = capacity.plan(machine, _costs(), 500.0)
    assert plan.connections == int(0.8 * GIB / 25_000)
    assert plan.reconnect_s == pytest.approx(plan.connections * 0.0005 / 2)
    assert plan.descriptors_per_acceptor == int(plan.connections / 2 / 0.95 * 2) + 300
    small = capacity.plan(machine, _costs(tree_bytes=GIB), 500.0)
    assert small.connections == 0
    fewer = capacity.plan(machine, _costs(acceptor_bytes=10_000_000, tree_bytes=20_000_000), 500.0)
    assert plan.connections - fewer.connections == pytest.approx(40_000_000 / 25_000, abs=1)


def test_descriptors_decide_how_many_acceptors_it_takes() -> None:
    assert capacity.per_acceptor(20_000) == 9357
    assert capacity.per_acceptor(100) == 1
    assert [capacity.acceptors_for(n, 20_000) for n in (1, 9357, 9358, 100_000)] == [1, 1, 2, 11]


def test_a_hello_names_the_server() -> None:
    assert client_hello("held.bench.test")[:2] == b"\x16\x03"
    assert b"held.bench.test" in client_hello("held.bench.test")


@pytest.fixture
def report() -> hold_report.HoldReport:
    levels = [_level(100), _level(2000, seconds=3.0, fewest=990, most=1010)]
    costs, caches = hold.per_connection(levels, 20e6, 8e6)
    results = [
        hold.HoldResult(
            passthrough=passthrough, wanted=2500, acceptors=2, clients=1, costs=costs, opening_cpu_us=500.0,
            caches=caches, levels=levels, checked=20, stopped="the time was up", active=spread([1.0, 1.01, 1.02]),
            limits={"fs.nr_open": "1"},
        )
        for passthrough in (False, True)
    ]  # fmt: skip
    machine = Machine(
        processor="A CPU", cores=2, memory_mb=1000, kernel="6", python="3", openssl="4", descriptors=1000,
        load_average=0.1,
    )  # fmt: skip
    return hold_report.HoldReport(
        started="2026-01-01T00:00:00+00:00",
        seconds=60,
        machine=machine,
        version="0.1.0",
        results=results,
        failed={},
    )


def test_the_tables_say_what_was_found(report: hold_report.HoldReport) -> None:
    _, rows = hold_report.run_table(report.results)
    cells = {row[0]: row[1] for row in rows}
    assert cells["connections held"] == "2,000"
    assert cells["wanted"] == "2,500; stopped: the time was up"
    assert cells["connections of the emptiest and fullest"] == "990 to 1,010"
    assert cells["opened per second, with everything on this machine"] == "500"
    assert cells["CPU of a small request, to the same proxy with none"] == "1.01 (1.00-1.02)"
    _, rows = hold_report.costs_table(report.results)
    assert rows[0][1:] == ["19.53 KB", "19.53 KB"]
    assert {row[0]: row[1] for row in rows}["CPU while idle"] == "30 ns/s"
    for head, rows in (hold_report.plan_table(report.results), hold_report.levels_table(report.results)):
        assert {len(row) for row in rows} == {len(head)}


def test_cpu_that_is_lost_in_chance_is_not_reported_as_a_number(report: hold_report.HoldReport) -> None:
    result = report.results[0]
    result.costs = _costs(idle_ns_per_s=-20.0, idle_noise_ns_per_s=70.0)
    _, rows = hold_report.costs_table([result])
    assert {row[0]: row[1] for row in rows}["CPU while idle"] == "none seen; less than 70 ns/s"


def test_a_kind_that_failed_is_named(report: hold_report.HoldReport) -> None:
    report.failed["passthrough"] = "RunError: closed while it was idle"
    assert hold_report.to_section(report).startswith(
        "passthrough connections failed and are left out: RunError: closed while it was idle\n"
    )


def test_only_the_measured_part_of_a_document_is_replaced(report: hold_report.HoldReport) -> None:
    document = f"# Title\n\nprose\n\n{hold_report.BEGIN}\nstale figures\n{hold_report.END}\n\nmore\n"
    once = hold_report.put_into(document, hold_report.to_section(report))
    assert once.startswith(f"# Title\n\nprose\n\n{hold_report.BEGIN}\n")
    assert once.endswith(f"\n{hold_report.END}\n\nmore\n")
    assert "stale" not in once
    assert hold_report.put_into(once, hold_report.to_section(report)) == once
    with pytest.raises(hold_report.NoPlace, match="has no lines"):
        hold_report.put_into("# Title\n", "x")
