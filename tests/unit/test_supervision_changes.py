"""What it means to add to a supervision tree that runs, and to take from it."""

from __future__ import annotations

import pytest

from supervisor.action import Outcome
from supervisor.node import State
from supervisor.spec import ChangeRefused, ChildSpec, GroupSpec, Restart, Strategy
from tests.support.tree_driver import TreeDriver, child, group, started


def test_an_added_group_starts_in_order_and_has_joined_when_its_last_child_is_ready() -> None:
    driver = started("a")
    driver.add(group("b", "c", name="late"))
    assert driver.taken() == ["+b"]
    driver.ready("b")
    assert (driver.taken(), driver.settled) == (["+c"], [])
    driver.ready("c")
    assert driver.settled == ["+late"]
    assert driver.state("late") is State.RUNNING


def test_an_added_member_is_restarted_like_any_other() -> None:
    driver = started("a", intensity=1)
    driver.add(group("b", name="late", intensity=1))
    driver.ready("b")
    driver.exit("b")
    assert driver.taken() == ["+b", "+b"]
    driver.ready("b")
    driver.exit("b")  # one too many: its group has failed, and is restarted by the root
    assert driver.taken() == ["+b"]
    assert driver.outcome is None


@pytest.mark.parametrize("code", [0, 1])
def test_what_does_not_become_ready_is_forgotten_and_nobody_is_to_blame(code: int) -> None:
    driver = started("a", intensity=0)
    driver.add(group("b", "c", name="late"))
    driver.ready("b")
    driver.exit("c", code)
    assert driver.taken() == ["+b", "+c", "-b"]
    assert driver.settled == []
    driver.exit("b", 0)
    assert driver.removed == {"late": f"c failed to start: exit code {code}"}
    assert driver.names() == ["a"]
    assert driver.running == {"a"}
    assert driver.outcome is None
    driver.add(group("b", "c", name="late"))  # the names are free again
    driver.ready("b", "c")
    assert driver.settled == ["-late", "+late"]


def test_what_crashes_too_often_before_all_of_it_is_ready_is_forgotten() -> None:
    driver = started("a", intensity=0)
    driver.add(group("b", "c", name="late", intensity=0))
    driver.ready("b")
    driver.exit("b")
    driver.stop_all()
    assert driver.settled == ["-late"]
    assert "more than 0 restarts" in driver.removed["late"]
    assert driver.running == {"a"}


def test_an_added_child_that_says_why_it_cannot_run() -> None:
    driver = started("a", intensity=0)
    driver.add(child("b"))
    driver.fail("b", "no room")
    driver.exit("b", 1)
    assert driver.removed == {"b": "no room (exit code 1)"}


def test_what_was_added_holds_nobody_up() -> None:
    driver = TreeDriver(group("a", "b", group("c", name="inner")))
    driver.ready("a", "b")
    driver.add(child("x"), "inner")
    driver.add(child("y"))
    assert driver.running == {"a", "b", "c"}, "those before them come first"
    driver.ready("c")
    assert driver.tree.ready
    assert driver.running == {"a", "b", "c", "x", "y"}
    driver.ready("y")
    assert driver.settled == ["+y"]


def test_what_is_added_before_another_one_stops_after_it() -> None:
    driver = started("a", group("b", name="inner"))
    driver.add(group("x", name="late"), before="inner")
    driver.ready("x")
    assert driver.settled == ["+late"]
    assert driver.names() == ["a", "late", "x", "inner", "b"]
    driver.taken()
    driver.stop(10.0)
    order = []
    while driver.outcome is None:
        order += [name for name in driver.running if driver.tree.leaf(name).state is State.STOPPING]
        driver.exit(order[-1], 0)
    assert order == ["b", "x", "a"]


def test_what_is_added_before_one_that_is_not_there_comes_last() -> None:
    driver = started("a")
    driver.add(child("x"), before="elsewhere")
    assert driver.names() == ["a", "x"]


@pytest.mark.parametrize(
    ("spec", "parent", "why"),
    [
        (child("a"), "", "there is one already: a"),
        (child("inner"), "", "there is one already: inner"),
        (group("x", "b", name="late"), "", "there is one already: b"),
        (child("x"), "a", "a is no group"),
        (child("x"), "elsewhere", "there is no elsewhere"),
    ],
)
def test_what_cannot_be_added(spec: ChildSpec | GroupSpec, parent: str, why: str) -> None:
    driver = started("a", group("b", name="inner"))
    with pytest.raises(ChangeRefused, match=why):
        driver.add(spec, parent)
    assert driver.names() == ["a", "inner", "b"]


def test_nothing_is_added_to_what_ends_or_has_ended() -> None:
    driver = started("a", group("b", "c", name="inner", intensity=0), intensity=1)
    driver.exit("b")
    with pytest.raises(ChangeRefused, match="inner does not run"):
        driver.add(child("x"), "inner")
    driver.stop()
    with pytest.raises(ChangeRefused, match="root does not run"):
        driver.add(child("x"))
    driver.stop_all()
    assert driver.outcome is not None
    for change in (lambda: driver.add(child("x")), lambda: driver.retire("a")):
        with pytest.raises(ChangeRefused):
            change()


def test_a_stop_takes_what_is_about_to_join_with_it() -> None:
    driver = started("a")
    driver.add(group("b", "c", name="late"))
    driver.stop()
    assert driver.taken() == ["+b", "-b"]
    driver.exit("b", 0)
    driver.exit("a", 0)
    assert driver.outcome == Outcome("stopped", clean=True)
    assert driver.settled == ["-late"]


def test_an_added_member_comes_back_with_its_group() -> None:
    driver = started(group("a", name="inner", intensity=0), intensity=1)
    driver.add(child("x"), "inner")
    driver.ready("x")
    driver.exit("a")
    driver.stop_all()
    driver.start_all()
    assert driver.running == {"a", "x"}
    assert driver.incarnation("x") == 2


def test_a_retired_group_goes_in_its_own_time_while_the_rest_is_looked_after() -> None:
    driver = started(
        "a", group(child("b", shutdown_s=30.0), "c", name="old", stop_together=True), intensity=1
    )
    driver.retire("old")
    assert driver.taken() == ["-c", "-b"]
    assert driver.processes["b"].asked == 29.5
    driver.exit("c", 0)
    driver.wait(20.0)
    driver.exit("a")
    assert driver.taken() == ["+a"]
    assert driver.settled == []
    driver.exit("b", 0)
    assert driver.removed == {"old": "stopped"}
    assert driver.names() == ["a"]
    with pytest.raises(ChangeRefused, match="there is no old"):
        driver.retire("old")


@pytest.mark.parametrize("ending", ["crash", "too late", "stuck"])
def test_whatever_becomes_of_what_was_retired_is_nobodys_failure(ending: str) -> None:
    driver = started("a", group(child("b", shutdown_s=3.0), name="old"), intensity=0)
    driver.retire("old")
    driver.retire("old")  # once is enough
    if ending == "crash":
        driver.exit("b", signal=11)
    else:
        driver.wait(3.1)
        assert driver.taken() == ["-b", "!b"]
        if ending == "too late":
            driver.exit("b", signal=9)
        else:
            driver.wait(10.0)
    assert driver.settled == ["-old"]
    assert driver.running == {"a"}
    driver.stop()
    driver.exit("a", 0)
    assert driver.outcome == Outcome("stopped", clean=True)


def test_what_fails_and_is_then_retired_is_not_restarted() -> None:
    driver = started("a", group("b", "c", name="old", intensity=0), intensity=0)
    driver.exit("b")
    assert driver.taken() == ["-c"]
    driver.retire("old")
    driver.exit("c", 0)
    assert driver.settled == ["-old"]
    assert driver.outcome is None
    assert driver.reported("group_escalated") == []


def test_what_backs_off_is_forgotten_at_once() -> None:
    driver = started("a", "b")
    driver.exit("b")
    driver.exit("b")
    assert driver.state("b") is State.BACKING_OFF
    driver.retire("b")
    assert driver.settled == ["-b"]
    driver.wait(60.0)
    assert driver.running == {"a"}


def test_what_is_about_to_join_can_be_retired() -> None:
    driver = started("a")
    driver.add(group("b", "c", name="late"))
    driver.retire("late")
    driver.ready("b")  # too late
    driver.exit("b", 0)
    assert driver.settled == ["-late"]
    assert driver.running == {"a"}


@pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE])
def test_siblings_are_not_kept_waiting_by_what_was_retired(strategy: Strategy) -> None:
    driver = started("a", child("b", shutdown_s=60.0), "c", strategy=strategy)
    driver.retire("b")
    driver.exit("a")
    assert driver.taken() == ["-b", "-c"]
    driver.exit("c", 0)
    assert driver.taken() == ["+a"]
    driver.ready("a")
    assert driver.taken() == ["+c"]
    driver.exit("b", 0)
    driver.ready("c")
    assert driver.running == {"a", "c"}


def test_what_had_to_stop_for_a_sibling_does_not_come_back_once_it_is_retired() -> None:
    driver = started("a", "b", "c", strategy=Strategy.REST_FOR_ONE)
    driver.exit("a")
    driver.retire("b")  # its turn had not come
    assert driver.taken() == ["-c", "-b"]
    driver.exit("b", 0)
    driver.exit("c", 0)
    driver.start_all()
    assert driver.running == {"a", "c"}


def test_a_start_goes_on_without_what_was_retired() -> None:
    driver = TreeDriver(group("a", "b", "c"))
    driver.ready("a")
    driver.retire("b")
    assert driver.taken() == ["+a", "+b", "-b", "+c"]
    driver.ready("c")
    assert driver.tree.ready


def test_a_stop_hastens_what_was_retired() -> None:
    driver = started("a", group(child("b", shutdown_s=60.0), name="old"))
    driver.retire("old")
    driver.stop(2.0)
    assert driver.processes["b"].asked == 2.0
    driver.wait(3.0)
    assert driver.taken() == ["-b", "-b", "!b"]


def test_a_member_that_ends_with_its_group_after_it_was_retired() -> None:
    driver = started(group("a", "b", name="inner", intensity=0), intensity=1)
    driver.exit("b")
    assert driver.taken() == ["-a"]
    driver.retire("a")
    driver.exit("a", 0)
    driver.start_all()
    assert driver.running == {"b"}
    assert driver.settled == ["-a"]


def test_the_root_is_not_retired() -> None:
    driver = started("a")
    with pytest.raises(ChangeRefused, match="root is the whole tree"):
        driver.retire("root")


def test_siblings_hear_of_one_that_comes_and_goes() -> None:
    driver = started("a", "b")
    driver.add(child("c"))
    assert driver.told("a") == [("c", False)]
    driver.ready("c")
    assert (driver.told("a"), driver.told("c")) == ([("c", True)], [])
    driver.retire("c")
    assert driver.told("b") == [("c", False), ("c", True), ("c", False)]
    driver.exit("c", 0)
    driver.exit("b")
    driver.ready("b")
    assert driver.told("b") == []


def test_the_time_to_stop_can_be_changed() -> None:
    driver = started("a", group("b", child("c", restart=Restart.TEMPORARY), name="inner"))
    driver.tree.allow_to_stop("inner", 40.0, driver.now)
    driver.tree.allow_to_stop("a", 0.0, driver.now)
    driver.stop()
    assert driver.processes["c"].asked == 39.5
    driver.exit("c", 0)
    assert driver.processes["b"].asked == 39.5
    driver.exit("b", 0)
    assert driver.taken() == ["-c", "-b", "!a"]
    with pytest.raises(ChangeRefused, match="there is no d"):
        driver.tree.allow_to_stop("d", 1.0, driver.now)
