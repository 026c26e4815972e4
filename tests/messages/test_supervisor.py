"""The supervisor with real processes: each tree in a process of its own, its children small examples."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import structlog
from msgspec.structs import replace

from supervisor.messages import DescribeTree, Stopping, StopTree
from supervisor.spec import BackoffSpec, Birth, ChangeRefused, GroupSpec, Restart, Strategy
from supervisor.supervisor import NotStarted, Supervisor
from symphony.mailbox.client import MailboxRefused
from symphony.mailbox.lifeline import ChildReady, encode_lifeline
from tests.support.supervisor_process import Maker, running_tree

BEATING = {"heartbeat_timeout_s": 0.6, "beat_s": 0.1}


def pair(make: Maker) -> GroupSpec:
    return make.group(make.child("a"), make.child("b"))


def restarted(name: str, times: int) -> Callable[..., bool]:
    return lambda children: children[name].restarts == times and children[name].state == "running"


def descriptors(pid: int) -> dict[int, str]:
    """What a process has open, but for what it opens and closes all the time."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
    return found


def own_memory(pid: int) -> int:
    """KiB of memory that belongs to no file: pages of libraries are mapped as they happen to be used."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


# Restarts


def test_a_killed_child_is_back_within_a_second_and_counted() -> None:
    with running_tree(pair) as tree:
        before = tree.children()
        os.kill(before["a"].pid, signal.SIGKILL)
        killed_at = time.monotonic()
        after = tree.wait_for(restarted("a", 1))
        assert time.monotonic() - killed_at < 10.0
        assert after["a"].pid != before["a"].pid
        assert after["a"].last_exit == "killed by SIGKILL"
        assert after["b"].pid == before["b"].pid
        assert [note["incarnation"] for note in tree.notes("a", "born")] == [1, 2]
        assert tree.stop() == 0


def test_how_a_child_ended_is_known() -> None:
    with running_tree(pair) as tree:
        for order, last_exit in (
            ("finish 0", "exit code 0"),
            ("finish 3", "exit code 3"),
            ("leave", "exit code 0"),
            ("complain", "exit code 1"),
            ("fail", "an example of a reason (exit code 0)"),
            (
                "garble",
                "cannot be understood: frame of 4294967295 bytes, allowed are 1 to 65536 (killed by SIGKILL)",
            ),
            ("raise", "exit code 1"),
        ):
            tree.order("a", order)
            os.kill(tree.pid_of("a"), signal.SIGKILL)
            tree.wait_for(lambda children, last_exit=last_exit: children["a"].last_exit == last_exit)
            tree.order("a", "")
            tree.wait_for(lambda children: children["a"].state == "running")
        (entry, *_) = tree.logged("child_failed")
        assert "RuntimeError: an example of an error" in entry["exception"]
        assert tree.stop() == 0


def test_a_transient_child_that_returns_has_finished() -> None:
    with running_tree(
        lambda make: make.group(make.child("a", restart=Restart.TRANSIENT), make.child("b")),
        orders={"a": "finish 0"},
    ) as tree:
        children = tree.wait_for(lambda children: children["a"].state == "finished")
        assert (children["a"].pid, children["a"].uptime_s, children["a"].restarts) == (0, 0.0, 0)
        assert tree.stop() == 0


def test_rest_for_one_and_what_siblings_are_told() -> None:
    with running_tree(
        lambda make: make.group(*map(make.child, "abc"), strategy=Strategy.REST_FOR_ONE)
    ) as tree:
        a_before = tree.pid_of("a")
        os.kill(tree.pid_of("b"), signal.SIGKILL)
        tree.wait_for(restarted("c", 1))
        assert tree.pid_of("a") == a_before
        tree.wait_until(lambda: len(tree.notes("a", "sibling")) == 8)
        told = [(note["name"], note["up"]) for note in tree.notes("a", "sibling")]
        assert told[:4] == [("b", False), ("c", False), ("b", True), ("c", True)]
        assert told[4:] == [("c", False), ("b", False), ("b", True), ("c", True)]
        order = [(note["child"], note["event"]) for note in tree.notes() if note["event"] in ("born", "end")]
        assert order == [*((name, "born") for name in "abc"), ("c", "end"), ("b", "born"), ("c", "born")]


def test_a_crash_loop_backs_off_and_the_siblings_serve_on() -> None:
    backoff = BackoffSpec(first_s=0.1, limit_s=0.3, reset_after_s=5.0)
    with running_tree(lambda make: make.group(make.child("a"), make.child("b"), backoff=backoff)) as tree:
        b_before = tree.pid_of("b")
        tree.order("a", "finish 1")
        os.kill(tree.pid_of("a"), signal.SIGKILL)
        tree.wait_until(lambda: len(tree.notes("a", "born")) >= 7)
        born = [note["at"] for note in tree.notes("a", "born")][1:7]
        gaps = [later - earlier for earlier, later in pairwise(born)]
        for gap, least in zip(gaps, (0.1, 0.2, 0.3, 0.3, 0.3), strict=True):
            assert least <= gap < least + 0.5
        tree.wait_for(lambda children: children["a"].state == "backing-off")
        assert tree.pid_of("b") == b_before
        tree.order("a", "")
        tree.wait_for(lambda children: children["a"].state == "running")
        assert tree.stop() == 0


def test_too_many_restarts_end_the_tree_with_a_word_why() -> None:
    with running_tree(lambda make: make.group(make.child("a"), make.child("b"), intensity=2)) as tree:
        tree.order("a", "exit 4")
        os.kill(tree.pid_of("a"), signal.SIGKILL)
        assert tree.wait_exit() == 1
        assert tree.reason() == "more than 2 restarts in 10 s, the last of a: exit code 4"
        assert tree.notes("b", "end")


# Starts


def test_a_first_start_that_fails_ends_the_tree() -> None:
    with running_tree(pair, ready=False, orders={"b": "fail"}) as tree:
        assert tree.wait_exit() == 1
        assert tree.reason() == "b failed to start: an example of a reason (exit code 0)"
        assert tree.notes("a", "end")


def test_a_child_that_is_not_ready_in_time_is_killed() -> None:
    with running_tree(lambda make: make.group(make.child("a", start_timeout_s=0.5))) as tree:
        tree.order("a", "hang")
        os.kill(tree.pid_of("a"), signal.SIGKILL)
        tree.wait_for(
            lambda children: "not ready within 0.5 s (killed by SIGKILL)" in children["a"].last_exit
        )
        tree.order("a", "")
        tree.wait_for(lambda children: children["a"].state == "running")
        assert tree.stop() == 0


def test_without_descriptors_starts_fail_and_are_tried_again() -> None:
    """A start needs six: two for the lifeline and four for multiprocessing, of which it then keeps four."""
    with running_tree(pair) as tree:
        before = descriptors(tree.pid)
        for free in (0, 2, 3, 5):
            failed = tree.failed_starts()
            tree.order("a", "exit 1")
            os.kill(tree.pid_of("a"), signal.SIGKILL)
            tree.wait_for(lambda children: children["a"].state == "backing-off")
            tree.limit(f"free {free}")
            tree.wait_until(lambda failed=failed: tree.failed_starts() >= failed + 2)
            tree.wait_until(lambda: len(descriptors(tree.pid)) <= len(before) - 4)
            tree.order("a", "")
            tree.limit("none")
            tree.wait_for(lambda children: children["a"].state == "running")
            tree.wait_until(lambda: len(descriptors(tree.pid)) == len(before))
        assert len(psutil.Process(tree.pid).children()) == 2
        assert tree.stop() == 0


def test_a_fork_that_fails_backs_off_and_leaves_nothing_behind() -> None:
    uid = 54321 if os.geteuid() == 0 else None  # root has no such limit
    with running_tree(pair, uid=uid) as tree:
        before = descriptors(tree.pid)
        tree.limit("fork")
        limits = Path(f"/proc/{tree.pid}/limits")
        tree.wait_until(lambda: re.search(r"Max processes +0 ", limits.read_text()) is not None)
        os.kill(tree.notes("a", "born")[-1]["pid"], signal.SIGKILL)
        tree.wait_until(lambda: tree.failed_starts() >= 4)
        # Those of the child that is gone.
        tree.wait_until(lambda: len(descriptors(tree.pid)) == len(before) - 4)
        tree.limit("none")
        tree.wait_until(lambda: len(tree.logged("child_ready")) == 3)
        tree.wait_until(lambda: len(descriptors(tree.pid)) == len(before))
        os.kill(tree.pid, signal.SIGTERM)
        assert tree.wait_exit() == 0


# Heartbeats


def test_a_stopped_child_is_found_by_its_silence_and_replaced() -> None:
    with running_tree(
        lambda make: make.group(make.child("a", **BEATING), make.child("b", **BEATING))
    ) as tree:
        pid = tree.pid_of("a")
        os.kill(pid, signal.SIGSTOP)
        stopped_at = time.monotonic()
        children = tree.wait_for(restarted("a", 1))
        assert 0.4 < time.monotonic() - stopped_at < 10.0
        assert children["a"].last_exit == "missed heartbeats (killed by SIGKILL)"
        assert children["b"].restarts == 0
        assert children["b"].depth == 7
        assert not psutil.pid_exists(pid)
        assert tree.stop() == 0


def test_a_child_that_closed_its_lifeline_is_found_by_its_silence() -> None:
    with running_tree(lambda make: make.group(make.child("a", **BEATING))) as tree:
        tree.order("a", "deaf")
        os.kill(tree.pid_of("a"), signal.SIGKILL)
        tree.wait_for(lambda children: children["a"].last_exit.startswith("missed heartbeats"))
        assert psutil.Process(tree.pid).cpu_times().user < 2.0  # and it is not waited for in a busy loop


@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_supervisor_that_was_stopped_does_not_hold_it_against_its_children(all_of_them: bool) -> None:
    def plan(make: Maker) -> GroupSpec:
        # The second one beats so fast that its lifeline is full long before it is read again.
        fast = make.child("b", heartbeat_timeout_s=0.6, beat_s=0.001)
        return make.group(make.child("a", **BEATING), fast, make.child("c", **BEATING))

    with running_tree(plan) as tree:
        pids = [child.pid for child in tree.children().values()]
        stopped = [tree.pid, *pids] if all_of_them else [tree.pid]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        tree.wait_until(lambda: bool(tree.logged("supervisor_late")))
        deadline = time.monotonic() + 1.2  # twice the limit
        while time.monotonic() < deadline:
            assert [child.pid for child in tree.children().values()] == pids, tree.log
            time.sleep(0.05)
        assert tree.stop() == 0


def test_a_child_that_hung_while_the_supervisor_was_stopped_is_still_found() -> None:
    with running_tree(
        lambda make: make.group(make.child("a", **BEATING), make.child("b", **BEATING))
    ) as tree:
        victim = tree.pid_of("a")
        os.kill(victim, signal.SIGSTOP)
        os.kill(tree.pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(tree.pid, signal.SIGCONT)
        children = tree.wait_for(restarted("a", 1))
        assert children["b"].restarts == 0


def test_a_busy_machine_does_not_cost_heartbeats() -> None:
    plan = lambda make: make.group(*(make.child(name, **BEATING) for name in "abc"))  # noqa: E731
    with running_tree(plan) as tree:
        burn = "import time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass"
        burners = [subprocess.Popen([sys.executable, "-c", burn]) for _ in range(8)]
        try:
            for burner in burners:
                burner.wait(60)
        finally:
            for burner in burners:
                burner.kill()
                burner.wait()
        assert [child.restarts for child in tree.children().values()] == [0, 0, 0], tree.log
        assert tree.stop() == 0


# Changes


def test_a_group_is_added_and_another_retired_and_nothing_is_left_of_it() -> None:
    async def then(supervisor: Supervisor, make: Maker) -> None:
        for number in range(20):
            late = make.group(make.child(f"c{number}"), make.child(f"d{number}"), name=f"late{number}")
            await supervisor.add(late)
            if number:
                await supervisor.retire(f"late{number - 1}")
            log.info("changed", number=number)

    log = structlog.get_logger()
    with running_tree(pair, then=then) as tree:
        before = tree.children()
        tree.wait_until(lambda: len(tree.logged("changed")) >= 5)
        open_then = len(descriptors(tree.pid))
        tree.wait_until(lambda: len(tree.logged("changed")) == 20)
        after = tree.children()
        assert list(after) == ["a", "b", "c19", "d19"]
        assert (after["a"], after["b"]) == (
            replace(before["a"], uptime_s=after["a"].uptime_s),
            replace(before["b"], uptime_s=after["b"].uptime_s),
        )
        tree.wait_until(lambda: len(descriptors(tree.pid)) <= open_then)
        order = [(note["child"], note["event"]) for note in tree.notes() if note["event"] in ("born", "end")]
        assert order[2:8] == [
            *(("c0", "born"), ("d0", "born"), ("c1", "born"), ("d1", "born")),
            *(("d0", "end"), ("c0", "end")),
        ]
        assert len(psutil.Process(tree.pid).children()) == 4
        assert tree.stop() == 0


def test_what_does_not_start_is_gone_and_the_caller_knows_why() -> None:
    async def then(supervisor: Supervisor, make: Maker) -> None:
        for name in ("c", "a", "c"):
            try:
                await supervisor.add(make.group(make.child("x"), make.child(name), name="late"))
            except (NotStarted, ChangeRefused) as error:
                log.info("not added", reason=str(error))
            make.order("c", "")
        await supervisor.retire("late")
        log.info("retired")

    log = structlog.get_logger()
    with running_tree(
        lambda make: make.group(make.child("a"), intensity=0), orders={"c": "fail"}, then=then
    ) as tree:
        tree.wait_until(lambda: bool(tree.logged("retired")))
        reasons = [entry["reason"] for entry in tree.logged("not added")]
        assert reasons == [
            "c failed to start: an example of a reason (exit code 0)",
            "there is one already: a",
        ]
        assert list(tree.children()) == ["a"]
        assert tree.stop() == 0


def test_a_stop_settles_every_change() -> None:
    async def then(supervisor: Supervisor, make: Maker) -> None:
        async def add() -> None:
            try:
                await supervisor.add(make.child("c"))
            except NotStarted as error:
                log.info("not added", reason=str(error))

        async def retire() -> None:
            await supervisor.retire("b")
            log.info("retired")

        await asyncio.gather(add(), retire())

    def plan(make: Maker) -> GroupSpec:
        return make.group(make.child("a"), make.child("b", linger_s=-1, shutdown_s=60.0))

    log = structlog.get_logger()
    with running_tree(plan, orders={"c": "hang"}, then=then) as tree:
        tree.wait_until(lambda: bool(tree.notes("c", "born")) and bool(tree.notes("b", "stop")))
        tree.ask(StopTree(0.5))
        tree.wait_exit()
        assert len(tree.logged("not added")) == len(tree.logged("retired")) == 1
        assert tree.logged("then_failed") == []


# Stopping


def test_children_stop_in_reverse_order_and_the_stubborn_one_is_killed() -> None:
    def plan(make: Maker) -> GroupSpec:
        inner = make.group(make.child("b", stubborn=True, shutdown_s=0.6), make.child("c"), name="inner")
        return make.group(make.child("a"), inner, make.child("d", linger_s=0.3))

    with running_tree(plan) as tree:
        pids = {child.pid for child in tree.children().values()}
        assert tree.ask(StopTree(10.0)) == Stopping()
        assert tree.wait_exit() == 1
        assert tree.reason() == "stopped; not in order: b"
        order = [(note["child"], note["event"]) for note in tree.notes() if note["event"] in ("stop", "end")]
        assert order == [
            *(("d", "stop"), ("d", "end"), ("c", "stop"), ("c", "end")),
            *(("b", "stop"), ("a", "stop"), ("a", "end")),
        ]
        waited = tree.notes("a", "stop")[0]["at"] - tree.notes("b", "stop")[0]["at"]
        assert 0.5 < waited < 8.0
        assert not any(map(psutil.pid_exists, pids))


def test_a_child_that_uses_up_its_grace_is_not_killed_for_it() -> None:
    plan = lambda make: make.group(make.child("a", linger_s=-1, shutdown_s=0.8))  # noqa: E731
    with running_tree(plan) as tree:
        assert tree.stop() == 0
        assert tree.notes("a", "stop")[0]["grace"] == pytest.approx(0.4)
        assert tree.notes("a", "end")


def test_a_second_request_ends_at_once() -> None:
    def plan(make: Maker) -> GroupSpec:
        inner = make.group(*(make.child(name, stubborn=True, shutdown_s=60.0) for name in "bc"), name="inner")
        return make.group(make.child("a", stubborn=True, shutdown_s=60.0), inner)

    with running_tree(plan) as tree:
        tree.family()
        os.kill(tree.pid, signal.SIGTERM)
        tree.wait_until(lambda: bool(tree.notes("c", "stop")))
        time.sleep(0.2)
        asked_at = time.monotonic()
        os.kill(tree.pid, signal.SIGTERM)
        assert tree.wait_exit() == 1
        assert time.monotonic() - asked_at < 10.0
        assert tree.reason() == "stopped by force"
        assert len(tree.notes(event="born")) == 3
        assert not any(process.is_running() for process in tree.family())


def test_an_interrupt_of_the_whole_process_group_is_the_supervisors_to_act_on() -> None:
    with running_tree(pair) as tree:
        os.killpg(os.getpgid(tree.pid), signal.SIGINT)
        assert tree.wait_exit() == 0
        order = [(note["child"], note["event"]) for note in tree.notes() if note["event"] in ("stop", "end")]
        assert order == [("b", "stop"), ("b", "end"), ("a", "stop"), ("a", "end")]


def test_a_stop_during_the_start() -> None:
    with running_tree(pair, ready=False, orders={"b": "hang"}) as tree:
        tree.wait_until(lambda: bool(tree.notes("b", "born")))
        os.kill(tree.pid, signal.SIGTERM)
        tree.wait_until(lambda: bool(tree.logged("stopping")))
        os.kill(tree.pid, signal.SIGTERM)
        assert tree.wait_exit() == 1
        assert not tree.logged("tree_ready")


def test_children_end_when_their_supervisor_is_killed() -> None:
    with running_tree(lambda make: make.group(*(make.child(name, **BEATING) for name in "abc"))) as tree:
        os.kill(tree.pid_of("b"), signal.SIGKILL)  # so that one is younger than its siblings
        tree.wait_for(restarted("b", 1))
        family = tree.family()
        os.kill(tree.pid, signal.SIGKILL)
        assert tree.wait_exit() == -signal.SIGKILL
        # Init buries them, when it comes to it: a zombie has ended.
        _, left = psutil.wait_procs(list(family), timeout=20)
        assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]
        assert {note["child"] for note in tree.notes(event="orphaned")} == {"a", "b", "c"}


def test_a_cancelled_supervisor_leaves_nobody_behind() -> None:
    with running_tree(pair) as tree:
        family = tree.family()
        os.kill(tree.pid, signal.SIGHUP)
        tree.wait_exit()
        assert len(family) == 2
        assert not any(process.is_running() for process in family)


# What children inherit


def look_around(birth: Birth, path: str) -> None:
    """Write down what this process has inherited, then serve without an event loop until the lifeline ends."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        os.write(writer, b"x")
        broken_pipe = "written"
    except BrokenPipeError:
        broken_pipe = "BrokenPipeError"
    os.close(writer)
    try:
        asyncio.get_running_loop()
        loop = "running"
    except RuntimeError:
        loop = "none"
    found = {
        "descriptors": {str(number): target for number, target in descriptors(os.getpid()).items()},
        "lifeline": birth.lifeline.fileno(),
        "broken_pipe": broken_pipe,
        "loop": loop,
        "wakeup": signal.set_wakeup_fd(-1),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "handled": [number for number in signal.valid_signals() if callable(signal.getsignal(number))],
        "ignored": [
            number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN
        ],
        "stdin": sys.stdin.read() if sys.stdin else "",
        "title": Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode(),
    }
    Path(path).write_text(json.dumps(found))
    birth.lifeline.sendall(encode_lifeline(ChildReady()))
    while birth.lifeline.recv(100):
        pass


def test_children_hold_nothing_foreign() -> None:
    with open(os.devnull) as kept, open("/proc/self/status") as foreign:

        def plan(make: Maker) -> GroupSpec:
            def look(birth: Birth) -> None:
                look_around(birth, f"{make.directory}/found")

            others = [make.child(name) for name in "abc"]
            return make.group(*others, make.child("x", run=look, keep_fds=(kept.fileno(),), shutdown_s=0.0))

        with running_tree(plan) as tree:
            in_supervisor = descriptors(tree.pid)
            assert {kept.fileno(), foreign.fileno()} <= in_supervisor.keys()
            for _ in range(2):
                found = json.loads(Path(tree.directory, "found").read_text())
                held = {int(number): target for number, target in found["descriptors"].items()}
                lifeline = found["lifeline"]
                listing = {number for number, target in held.items() if target.endswith("/fd")}
                assert held.keys() - listing == {0, 1, 2, lifeline, kept.fileno()}
                assert held[0] == os.devnull
                assert held[1] == held[2] == in_supervisor[2]
                assert held[lifeline] not in in_supervisor.values()
                assert held[kept.fileno()] == in_supervisor[kept.fileno()]
                # Younger than its siblings, it is born among more descriptors.
                os.kill(tree.pid_of("x"), signal.SIGKILL)
                tree.wait_for(
                    lambda children: children["x"].state == "running" and children["x"].restarts > 0
                )
            assert found["broken_pipe"] == "BrokenPipeError"
            assert found["loop"] == "none"
            assert found["wakeup"] == -1
            assert found["blocked"] == []
            assert found["handled"] == []
            assert {signal.SIGPIPE, signal.SIGINT} <= set(found["ignored"])
            assert not {signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD} & set(found["ignored"])
            assert found["stdin"] == ""
            assert found["title"] == "example: x"
            assert tree.stop() == 0


def test_uvloop_runs_in_a_child_and_the_supervisors_loop_runs_on() -> None:
    plan = lambda make: make.group(make.child("a", fast_loop=True, **BEATING), make.child("b"))  # noqa: E731
    with running_tree(plan) as tree:
        for times in range(1, 4):
            os.kill(tree.pid_of("a"), signal.SIGKILL)
            tree.wait_for(restarted("a", times))
        epolls = [target for target in descriptors(tree.pid_of("a")).values() if "eventpoll" in target]
        assert len(epolls) == 1
        assert tree.stop() == 0


def test_fifty_restarts_leave_no_trace() -> None:
    plan = lambda make: make.group(  # noqa: E731
        make.child("a"), make.child("b"), backoff=BackoffSpec(reset_after_s=0.0)
    )
    with running_tree(plan) as tree:
        process = psutil.Process(tree.pid)
        count = len(descriptors(tree.pid))

        def restart(until: int) -> None:
            for times in range(tree.children()["a"].restarts + 1, until + 1):
                os.kill(tree.pid_of("a"), signal.SIGKILL)
                tree.wait_for(restarted("a", times))

        restart(10)
        memory = own_memory(tree.pid)
        restart(60)
        # Compared with the time before anybody asked: whoever asks is connected for a moment.
        tree.wait_until(lambda: len(descriptors(tree.pid)) == count)
        assert own_memory(tree.pid) - memory < 512
        assert [child.status() for child in process.children()].count(psutil.STATUS_ZOMBIE) == 0
        assert len(process.children()) == 2
        assert tree.stop() == 0


# A supervisor in bad surroundings


def test_ignored_sigchld_is_not_inherited() -> None:
    def prepare() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    with running_tree(pair, prepare=prepare) as tree:
        os.kill(tree.pid_of("a"), signal.SIGKILL)
        assert tree.wait_for(restarted("a", 1))["a"].last_exit == "killed by SIGKILL"


def test_an_end_that_somebody_else_waited_for_is_seen_all_the_same() -> None:
    def prepare() -> None:
        def reap(number: int, frame: object) -> None:
            os.waitpid(-1, os.WNOHANG)

        signal.signal(signal.SIGCHLD, reap)

    with running_tree(pair, prepare=prepare) as tree:
        os.kill(tree.pid_of("a"), signal.SIGKILL)
        tree.wait_for(restarted("a", 1))


def test_a_log_that_nobody_reads_any_more_stops_nothing() -> None:
    def prepare() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        sys.stdout = open(writer, "w")  # noqa: SIM115 - for the life of the process
        sys.stdout.write("what cannot be flushed")

    with running_tree(pair, prepare=prepare) as tree:
        os.kill(tree.pid_of("a"), signal.SIGKILL)
        tree.wait_for(restarted("a", 1))
        assert tree.stop() == 0
        assert not tree.logged("child_killed")


ABANDON = """
import asyncio, os, signal, sys, time
from supervisor import patience, process
from supervisor.spec import ChildSpec, GroupSpec
from supervisor.supervisor import Supervisor
from symphony.mailbox.lifeline import ChildReady, encode_lifeline
from symphony.observe.logs import configure_logging

configure_logging("json", "info")

def unkillable(birth):
    print(os.getpid(), flush=True)
    birth.lifeline.sendall(encode_lifeline(ChildReady()))
    time.sleep(1.5 if birth.incarnation == 1 else 30)

patience.KILL_PATIENCE_S = 0.2
process.ChildProcess.kill = lambda self: None
child = ChildSpec("a", "test", unkillable, "a", shutdown_s=0.2, heartbeat_timeout_s=0.5)

async def main():
    supervisor = Supervisor(GroupSpec("root", (child,)), sys.argv[1])
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, supervisor.request_stop)
    outcome = await supervisor.run()
    print(outcome.reason, flush=True)

asyncio.run(main())
"""


def test_a_process_that_cannot_be_killed_is_let_go_of_and_holds_up_no_exit() -> None:
    """SIGKILL is made to do nothing here, as with a process that is stuck in the kernel."""
    path = f"/tmp/sy-abandon-{os.getpid()}.sock"
    supervisor = subprocess.Popen(
        [sys.executable, "-c", ABANDON, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    born: list[int] = []
    try:
        assert supervisor.stdout is not None
        born = [int(supervisor.stdout.readline()) for _ in range(3)]
        # The first one ends after all while others are watched: it must not stay as a zombie.
        deadline = time.monotonic() + 20
        while psutil.pid_exists(born[0]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        supervisor.send_signal(signal.SIGTERM)
        while (line := supervisor.stdout.readline()).strip().isdecimal():
            born.append(int(line))
        assert line == "stopped; not in order: a\n"
        supervisor.wait(20)
        assert psutil.pid_exists(born[-1])
    finally:
        for pid in (*born, supervisor.pid):
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
        supervisor.communicate(timeout=5)
        Path(path).unlink(missing_ok=True)


# The mailbox


def test_the_tree_is_described() -> None:
    with running_tree(
        lambda make: make.group(make.child("a"), make.group(make.child("b", **BEATING), name="inner"))
    ) as tree:
        tree.wait_for(lambda children: children["b"].depth == 7)
        description = tree.describe()
        assert description.pid == tree.pid
        assert 0 <= time.time() - description.started_at < 10
        a, b = description.children
        assert (a.name, a.kind, a.group, a.state, a.restarts) == ("a", "example", "root", "running", 0)
        assert (b.name, b.group, b.last_exit) == ("b", "inner", "")
        assert 0 < b.uptime_s <= a.uptime_s < 10
        assert psutil.Process(a.pid).ppid() == tree.pid


def test_an_impossible_grace_is_refused() -> None:
    with running_tree(pair) as tree:
        for grace_s in (-1.0, float("nan"), float("inf")):
            with pytest.raises(MailboxRefused, match="grace_s"):
                tree.ask(StopTree(grace_s))
        assert [child.state for child in tree.describe().children] == ["running", "running"]


def test_garbage_costs_only_its_sender() -> None:
    with running_tree(pair) as tree:
        for garbage in (
            b"\0" * 8,
            b"\xff" * 100,
            b"GET / HTTP/1.1\r\n\r\n",
            b"\0\0\0\x05\x94\x01\x01\x00\xc0",
        ):
            with socket.socket(socket.AF_UNIX) as sender:
                sender.settimeout(5)
                sender.connect(tree.mailbox)
                sender.sendall(garbage)
                try:
                    assert sender.recv(100) == b""
                except ConnectionResetError:
                    pass
            assert tree.ask(DescribeTree()).pid == tree.pid
        assert tree.stop() == 0
