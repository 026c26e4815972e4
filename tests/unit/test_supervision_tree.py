"""The supervision tree's rules, one by one, with imagined processes and an imagined clock."""

from __future__ import annotations

import pytest

from supervisor.action import Outcome
from supervisor.node import State
from supervisor.patience import KILL_PATIENCE_S, LAST_WORDS_S, LEAST_GRACE_S, PULSE_S
from supervisor.spec import BackoffSpec, GroupSpec, Restart, Strategy
from tests.support.tree_driver import TreeDriver, child, group, started

ONE, ALL, REST = Strategy.ONE_FOR_ONE, Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE
PERMANENT, TRANSIENT, TEMPORARY = Restart.PERMANENT, Restart.TRANSIENT, Restart.TEMPORARY


# Starting


def test_children_start_in_order_each_when_the_one_before_is_ready() -> None:
    driver = TreeDriver(group("a", "b", "c"))
    assert driver.taken() == ["+a"]
    driver.ready("a")
    assert driver.taken() == ["+b"]
    driver.wait(1.0)
    assert driver.taken() == []
    driver.ready("b")
    assert not driver.tree.ready
    driver.ready("c")
    assert driver.taken() == ["+c"]
    assert driver.tree.ready


def test_a_nested_group_is_ready_when_its_last_child_is() -> None:
    driver = TreeDriver(group("a", group("b", "c", name="inner"), "d"))
    driver.ready("a", "b")
    assert driver.taken() == ["+a", "+b", "+c"]
    assert driver.state("inner") is State.STARTING
    driver.ready("c")
    assert driver.taken() == ["+d"]
    assert driver.state("inner") is State.RUNNING


def test_empty_groups_are_ready_at_once() -> None:
    assert TreeDriver(group()).tree.ready
    driver = TreeDriver(group(group(name="first"), "a", group(group(name="deep"), name="last")))
    driver.ready("a")
    assert driver.tree.ready


def test_a_child_that_says_ready_twice_is_ready_once() -> None:
    driver = TreeDriver(group("a", "b"))
    driver.ready("a", "a")
    assert driver.taken() == ["+a", "+b"]


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("restart", list(Restart))
def test_a_first_start_that_fails_ends_the_group(restart: Restart, code: int) -> None:
    driver = TreeDriver(group("a", "b", child("c", restart=restart), "d"))
    driver.ready("a", "b")
    driver.exit("c", code)
    assert driver.taken() == ["+a", "+b", "+c", "-b"]
    driver.exit("b", 0)
    driver.exit("a", 0)
    assert driver.outcome == Outcome(f"c failed to start: exit code {code}", clean=False)


def test_a_first_start_that_fails_in_a_nested_group_escalates() -> None:
    driver = TreeDriver(group("a", group("b", group("c", "d", name="deep"), name="inner"), "e"))
    driver.ready("a", "b", "c")
    driver.exit("d", 7)
    assert driver.taken()[-1] == "-c"
    driver.stop_all()
    assert driver.taken() == ["-b", "-a"]
    assert driver.outcome is not None
    assert not driver.outcome.clean
    assert driver.outcome.reason == (
        "inner failed to start: deep failed to start: d failed to start: exit code 7"
    )
    assert [fields["group"] for fields in driver.reported("group_escalated")] == ["deep", "inner"]


def test_a_start_that_takes_too_long_is_killed_and_has_failed() -> None:
    driver = TreeDriver(group("a", child("b", start_timeout_s=3.0)))
    driver.ready("a")
    driver.wait(2.9)
    assert "!b" not in driver.taken()
    driver.wait(0.2)
    assert driver.taken() == ["!b"]
    driver.ready("b")  # too late
    driver.exit("b", signal=9)
    driver.exit("a", 0)
    assert driver.outcome == Outcome(
        "b failed to start: not ready within 3 s (killed by SIGKILL)", clean=False
    )


def test_what_a_child_says_about_its_end_is_the_reason_and_makes_it_abnormal() -> None:
    driver = started(child("a", restart=TRANSIENT))
    driver.fail("a", "cannot bind")
    driver.fail("a", "and more")
    driver.exit("a", 0)
    assert driver.taken() == ["+a"]
    assert driver.tree.leaf("a").last_exit == "cannot bind (exit code 0)"


def test_a_child_that_said_it_cannot_run_and_stays_is_killed_soon() -> None:
    driver = started("a", "b")
    driver.fail("a", "out of luck")
    driver.wait(LAST_WORDS_S + 0.1)
    assert driver.taken() == ["!a"]
    driver.exit("a", signal=9)
    assert driver.tree.leaf("a").last_exit == "out of luck (killed by SIGKILL)"
    driver.fail("b", "as well")
    driver.exit("b", 1)
    driver.fail("b", "nothing left of it")
    assert driver.running == {"a", "b"}


def test_a_running_child_that_crashes_during_the_start_is_back_before_the_start_is_over() -> None:
    driver = TreeDriver(group("a", "b", "c"))
    driver.ready("a")
    driver.exit("a")
    assert driver.taken() == ["+a", "+b", "+a"]
    driver.ready("b")
    assert driver.taken() == ["+c"]
    driver.ready("c", "a")
    assert driver.tree.ready


# Restart types and strategies


@pytest.mark.parametrize(
    ("restart", "code", "back"),
    [
        (PERMANENT, 0, True),
        (PERMANENT, 1, True),
        (TRANSIENT, 0, False),
        (TRANSIENT, 1, True),
        (TEMPORARY, 0, False),
        (TEMPORARY, 1, False),
    ],
)
def test_restart_types(restart: Restart, code: int, back: bool) -> None:
    driver = started("a", child("b", restart=restart), "c")
    driver.exit("b", code)
    assert driver.taken() == (["+b"] if back else [])
    assert driver.state("b") is (State.STARTING if back else State.FINISHED)
    driver.wait(60)
    assert driver.running == ({"a", "b", "c"} if back else {"a", "c"})


def test_a_signal_is_an_abnormal_end() -> None:
    driver = started(child("a", restart=TRANSIENT))
    driver.exit("a", signal=15)
    assert driver.taken() == ["+a"]


def test_one_for_one_touches_nobody_else() -> None:
    driver = started("a", "b", "c", strategy=ONE)
    driver.exit("b")
    assert driver.taken() == ["+b"]
    assert (driver.incarnation("a"), driver.incarnation("b")) == (1, 2)


def test_one_for_all_stops_all_in_reverse_order_then_starts_all_in_order() -> None:
    driver = started("a", "b", "c", "d", strategy=ALL)
    driver.exit("b")
    for name in ("d", "c", "a"):
        assert driver.taken() == [f"-{name}"]
        driver.exit(name, 0)
    for name in ("a", "b", "c", "d"):
        assert driver.taken() == [f"+{name}"]
        driver.ready(name)
    assert driver.taken() == []


def test_rest_for_one_restarts_those_after_it() -> None:
    driver = started("a", "b", "c", "d", strategy=REST)
    driver.exit("b")
    driver.stop_all()
    driver.start_all()
    assert driver.taken() == ["-d", "-c", "+b", "+c", "+d"]
    driver.exit("d")
    assert driver.taken() == ["+d"]


def test_temporary_siblings_that_are_stopped_for_another_do_not_come_back() -> None:
    driver = started("a", child("b", restart=TEMPORARY), "c", strategy=ALL)
    driver.exit("a")
    driver.stop_all()
    driver.start_all()
    assert driver.taken() == ["-c", "-b", "+a", "+c"]
    assert driver.state("b") is State.FINISHED


def test_the_end_of_a_temporary_child_restarts_nobody() -> None:
    for strategy in Strategy:
        driver = started("a", child("b", restart=TEMPORARY), "c", strategy=strategy)
        driver.exit("b")
        driver.wait(60)
        assert driver.taken() == []


def test_transient_siblings_that_had_finished_start_again_with_the_others() -> None:
    driver = started("a", child("b", restart=TRANSIENT), "c", strategy=REST)
    driver.exit("b", 0)
    driver.exit("a")
    driver.stop_all()
    driver.start_all()
    assert driver.taken() == ["-c", "+a", "+b", "+c"]


def test_a_child_that_has_not_started_yet_waits_for_its_turn_also_when_temporary() -> None:
    driver = TreeDriver(group("a", "b", child("c", restart=TEMPORARY), strategy=ALL))
    driver.ready("a")
    driver.exit("a")
    driver.stop_all()
    driver.start_all()
    assert driver.taken() == ["+a", "+b", "-b", "+a", "+b", "+c"]
    assert driver.tree.ready


def test_an_end_during_a_strategy_stop_is_taken_for_the_stop() -> None:
    driver = started("a", "b", "c", strategy=ALL, intensity=1)
    driver.exit("b")
    assert driver.taken() == ["-c"]
    driver.exit("a")  # by itself, before its turn
    driver.exit("c", 0)
    driver.start_all()
    assert driver.taken() == ["+a", "+b", "+c"]
    assert driver.outcome is None  # one restart, not two


def test_an_earlier_child_that_ends_during_a_strategy_stop_widens_it() -> None:
    driver = started("a", "b", "c", "d", strategy=REST)
    driver.exit("c")
    assert driver.taken() == ["-d"]
    driver.exit("a")
    driver.stop_all()
    driver.start_all()
    assert driver.taken() == ["-b", "+a", "+b", "+c", "+d"]
    assert driver.incarnation("c") == 2


def test_a_restart_while_the_siblings_start_again_begins_from_the_front() -> None:
    driver = started("a", "b", "c", strategy=ALL)
    driver.exit("c")
    driver.stop_all()
    driver.ready("a")
    assert driver.taken() == ["-b", "-a", "+a", "+b"]
    driver.exit("a")
    assert driver.taken() == ["-b"]
    driver.exit("b", 0)
    driver.start_all()
    assert driver.taken() == ["+a", "+b", "+c"]


def test_a_child_that_fails_to_start_again_counts_as_failed_whatever_its_type() -> None:
    driver = started("a", child("b", restart=TRANSIENT))
    driver.exit("b", 1)
    driver.exit("b", 0)  # ended normally, but was never ready
    driver.wait(1.0)
    assert driver.taken() == ["+b", "+b"]
    assert driver.incarnation("b") == 3


def test_groups_share_the_fate_of_their_siblings() -> None:
    driver = started("a", group("b", "c", name="inner"), "d", strategy=REST)
    driver.exit("a")
    driver.stop_all()
    driver.start_all()
    assert driver.taken() == ["-d", "-c", "-b", "+a", "+b", "+c", "+d"]


def test_a_group_not_asked_yet_still_looks_after_its_children() -> None:
    driver = started(group("b", "c", name="inner"), "d")
    driver.stop()
    driver.exit("b")
    assert driver.taken() == ["-d", "+b"]
    driver.exit("d", 0)
    assert driver.taken() == ["-c"]


# Intensity and escalation


def test_one_restart_too_many_ends_the_group_and_at_the_root_the_tree() -> None:
    driver = started("a", "b", intensity=2, period_s=10.0)
    for _ in range(2):
        driver.exit("a")
        driver.wait(1.0)
        driver.start_all()
    driver.taken()
    driver.exit("a", 9)
    assert driver.taken() == ["-b"]
    driver.exit("b", 0)
    reason = "more than 2 restarts in 10 s, the last of a: exit code 9"
    assert driver.outcome == Outcome(reason, clean=False)


def test_restarts_outside_of_the_period_are_forgotten() -> None:
    driver = started("a", intensity=1, period_s=5.0)
    for _ in range(10):
        driver.exit("a")
        driver.start_all()
        driver.wait(5.1)
    assert driver.outcome is None
    assert driver.incarnation("a") == 11


def test_the_intensity_counts_the_group_not_the_child() -> None:
    driver = started("a", "b", "c", intensity=2)
    driver.exit("a")
    driver.exit("b")
    assert driver.outcome is None
    driver.exit("c")
    driver.stop_all()
    assert driver.outcome is not None


def test_a_group_that_failed_is_restarted_with_a_fresh_window_and_fresh_back_off() -> None:
    inner = group("b", "c", name="inner", intensity=1, period_s=100.0)
    driver = started("a", inner, intensity=3, period_s=1000.0)
    for _ in range(3):
        driver.exit("b")
        driver.start_all()
        driver.exit("b")
        driver.stop_all()
        driver.wait(6.0)
        driver.start_all()
        assert driver.taken() == ["+b", "-c", "+b", "+c"]
    assert driver.incarnation("a") == 1
    driver.exit("b")
    assert driver.taken() == ["+b"]  # at once: the child's back-off is fresh too
    driver.start_all()
    driver.exit("b")
    driver.stop_all()
    assert driver.taken() == ["-c", "-a"]
    assert driver.outcome is not None
    assert driver.outcome.reason.startswith(
        "more than 3 restarts in 1000 s, the last of inner: more than 1 rest"
    )


@pytest.mark.parametrize(("restart", "back"), [(PERMANENT, True), (TRANSIENT, True), (TEMPORARY, False)])
def test_a_group_given_up_is_an_abnormal_end(restart: Restart, back: bool) -> None:
    driver = started("a", group("b", name="inner", intensity=0, restart=restart))
    driver.exit("b", 0)
    driver.wait(5)
    assert driver.taken() == (["+b"] if back else [])
    assert driver.outcome is None


def test_a_restarted_group_that_fails_to_start_counts_as_one_more_failure() -> None:
    driver = started("a", group("b", "c", name="inner", intensity=0), intensity=2)
    driver.exit("b")
    driver.exit("c", 0)
    assert driver.taken() == ["-c", "+b"]
    driver.exit("b")  # the first start in this life of its group
    driver.wait(0.1)
    driver.exit("b")
    driver.stop_all()
    assert driver.outcome is not None
    assert driver.outcome.reason.startswith(
        "more than 2 restarts in 10 s, the last of inner: b failed to start"
    )


def test_a_group_restarts_its_siblings_by_its_parents_strategy() -> None:
    driver = started("a", group("b", name="inner", intensity=0), "c", strategy=ALL)
    driver.exit("b")
    driver.stop_all()
    driver.start_all()
    assert driver.taken() == ["-c", "-a", "+a", "+b", "+c"]


def test_escalation_goes_through_all_levels() -> None:
    deep = group(group("c", name="deep", intensity=0), "d", name="inner", intensity=0)
    driver = started("a", deep, "e", intensity=0)
    driver.exit("c")
    driver.stop_all()
    assert driver.taken() == ["-d", "-e", "-a"]
    assert driver.outcome is not None
    assert not driver.outcome.clean


def test_temporary_and_finished_children_do_not_count() -> None:
    driver = started(child("a", restart=TEMPORARY), child("b", restart=TRANSIENT), "c", intensity=0)
    driver.exit("a", 1)
    driver.exit("b", 0)
    assert driver.outcome is None
    assert driver.running == {"c"}


# Back-off

SLOW = BackoffSpec(first_s=1.0, limit_s=4.0, reset_after_s=10.0)


def test_restarts_back_off() -> None:
    driver = started("a", "b", backoff=SLOW)
    for delay in (0.0, 1.0, 2.0, 4.0, 4.0):
        driver.exit("a")
        assert driver.state("a") is (State.BACKING_OFF if delay else State.STARTING)
        driver.wait(max(0.0, delay - 0.1))
        assert driver.taken() == ([] if delay else ["+a"])
        driver.wait(0.2)
        driver.start_all()
        driver.taken()
    driver.wait(10.0)
    driver.exit("a")
    assert driver.taken() == ["+a"]


def test_a_failed_start_backs_off_too() -> None:
    driver = started("a", backoff=SLOW)
    driver.exit("a")
    driver.exit("a")
    driver.wait(0.9)
    assert driver.running == set()
    driver.wait(0.2)
    assert driver.running == {"a"}


def test_a_backing_off_child_holds_nobody_up() -> None:
    driver = TreeDriver(group("a", "b", "c", backoff=SLOW))
    driver.ready("a")
    for _ in range(2):
        driver.exit("a")
        driver.start_all() if "a" in driver.running else None
    assert driver.tree.leaf("a").shown_state == "backing-off"
    driver.start_all()
    assert driver.tree.ready
    driver.exit("b")
    assert "b" in driver.running


def test_in_a_group_with_a_common_fate_those_before_it_start_at_once_and_those_after_it_wait() -> None:
    driver = started("a", "b", "c", strategy=ALL, backoff=SLOW)
    driver.exit("b")
    driver.stop_all()
    driver.start_all()
    driver.taken()
    driver.exit("b")
    driver.stop_all()
    driver.start_all()
    assert driver.taken() == ["-c", "-a", "+a"]
    assert driver.tree.leaf("b").shown_state == "backing-off"
    driver.wait(1.1)
    driver.start_all()
    assert driver.taken() == ["+b", "+c"]


def test_the_timer_does_not_spin_for_a_child_that_is_due_and_held() -> None:
    driver = started("a", child("b", shutdown_s=60.0), strategy=ALL, backoff=SLOW)
    driver.exit("a")
    driver.stop_all()
    driver.start_all()
    driver.exit("a")
    driver.taken()
    driver.wait(30.0)  # a was due after 1 s, b takes its time; TreeDriver.wait counts the ticks
    assert driver.taken() == []
    assert driver.due is not None
    assert driver.due > driver.now
    driver.exit("b", 0)
    assert driver.taken() == ["+a"]


def test_a_child_due_while_something_else_happens_is_started() -> None:
    driver = started("a", "b", backoff=SLOW)
    driver.exit("a")
    driver.start_all()
    driver.exit("a")
    driver.now += 1.5
    driver.beat("b")  # an event after it was due, and before the tick
    assert driver.due is not None
    assert driver.due <= driver.now
    driver.wait(0.0)
    assert driver.running == {"a", "b"}


# Stopping


def test_children_stop_in_reverse_order_each_before_the_next() -> None:
    driver = started("a", group("b", "c", name="inner"), "d")
    driver.stop()
    for name in ("d", "c", "b", "a"):
        assert driver.taken() == [f"-{name}"]
        driver.exit(name, 0)
    assert driver.outcome == Outcome("stopped", clean=True)
    assert driver.due is None


def test_a_group_may_stop_its_children_together() -> None:
    driver = started("a", group("b", "c", "d", name="inner", stop_together=True))
    driver.stop()
    assert driver.taken() == ["-d", "-c", "-b"]
    driver.exit("c", 0)
    driver.exit("d", 0)
    assert driver.taken() == []
    driver.exit("b", 0)
    assert driver.taken() == ["-a"]


def test_stop_together_also_holds_for_groups_and_for_strategy_stops() -> None:
    driver = started("a", group("b", "c", name="inner"), "d", stop_together=True, strategy=ALL)
    driver.exit("a")
    assert driver.taken() == ["-d", "-c"]
    driver.exit("c", 0)
    assert driver.taken() == ["-b"]
    driver.stop_all()
    assert driver.taken() == ["+a"]


def test_a_child_that_does_not_stop_in_time_is_killed_and_the_outcome_is_not_clean() -> None:
    driver = started("a", child("b", shutdown_s=2.0))
    driver.stop()
    assert driver.processes["b"].asked == pytest.approx(1.5)
    driver.wait(1.9)
    assert driver.taken() == ["-b"]
    driver.wait(0.2)
    assert driver.taken() == ["!b"]
    driver.exit("b", signal=9)
    driver.stop_all()
    assert driver.outcome == Outcome("stopped; not in order: b", clean=False)


def test_a_child_that_fails_while_it_stops_is_not_clean() -> None:
    driver = started("a", "b")
    driver.stop()
    driver.exit("b", 1)
    driver.exit("a", 0)
    assert driver.outcome == Outcome("stopped; not in order: b", clean=False)


def test_killing_without_asking_is_clean_where_the_spec_says_so() -> None:
    driver = started("a", child("b", shutdown_s=0.0))
    driver.stop()
    assert driver.taken() == ["!b"]
    driver.exit("b", signal=9)
    driver.exit("a", 0)
    assert driver.outcome == Outcome("stopped", clean=True)


def test_what_went_wrong_before_the_stop_does_not_make_it_unclean() -> None:
    driver = started("a", child("b", shutdown_s=1.0), child("c", heartbeat_timeout_s=1.0), strategy=ALL)
    driver.exit("a")
    driver.exit("c", 0)
    driver.wait(1.1)
    driver.exit("b", signal=9)
    driver.start_all()
    driver.wait(1.2, beating=False)
    assert driver.taken()[-1] == "!c"
    driver.stop()
    driver.exit("c", signal=9)
    driver.stop_all()
    assert driver.outcome == Outcome("stopped", clean=True)


def test_the_grace_bounds_the_whole_stop_and_leaves_a_little_for_the_last() -> None:
    driver = started(child("a", shutdown_s=0.4), child("b", shutdown_s=9.0), child("c", shutdown_s=60.0))
    driver.stop(5.0)
    assert driver.processes["c"].asked == pytest.approx(5.0)
    driver.wait(5.2)
    driver.exit("c", 0)
    assert driver.processes["b"].asked == pytest.approx(LEAST_GRACE_S)
    driver.exit("b", 0)
    assert driver.processes["a"].asked == pytest.approx(0.2)
    driver.exit("a", 0)
    assert driver.outcome == Outcome("stopped", clean=True)


def test_a_child_that_stops_for_a_sibling_is_told_when_the_stop_leaves_it_less() -> None:
    driver = started("a", child("b", shutdown_s=60.0), strategy=ALL)
    driver.exit("a")
    assert driver.processes["b"].asked == pytest.approx(59.5)
    driver.stop(2.0)
    assert driver.processes["b"].asked == pytest.approx(2.0)
    driver.wait(2.6)
    assert driver.taken() == ["-b", "-b", "!b"]


def test_a_second_stop_kills_everything_and_restarts_nothing() -> None:
    driver = started(
        "a", group("b", "c", name="first"), group("d", "e", name="second", stop_together=True), "f"
    )
    driver.stop()
    driver.wait(1.0)
    assert driver.taken() == ["-f"]
    driver.stop()
    assert sorted(driver.taken()) == ["!a", "!b", "!c", "!d", "!e", "!f"]
    for name in ("b", "e", "a", "f", "d", "c"):
        assert driver.outcome is None
        driver.exit(name, signal=9)
    assert driver.taken() == []
    assert driver.outcome == Outcome("stopped by force", clean=False)


def test_requests_to_stop_that_come_together_are_one() -> None:
    driver = started("a")
    driver.stop(5.0)
    driver.stop(5.0)
    assert driver.taken() == ["-a"]
    driver.wait(0.2)
    driver.stop(5.0)
    assert driver.taken() == ["!a"]
    driver.wait(1.0)
    driver.stop()
    assert driver.taken() == []


def test_a_second_stop_ends_groups_of_which_nothing_runs() -> None:
    idle = group(child("b", restart=TEMPORARY), name="idle")
    driver = started(group(name="empty"), group(idle, name="outer"), child("c", shutdown_s=9.0))
    driver.exit("b", 0)
    driver.stop()
    driver.wait(1)
    driver.stop()
    driver.exit("c", signal=9)
    assert driver.outcome == Outcome("stopped by force", clean=False)


def test_stopping_what_never_started_is_a_clean_end() -> None:
    driver = TreeDriver(group("a"), begin=False)
    driver.stop()
    assert driver.outcome == Outcome("stopped before it started", clean=True)
    driver.tree.begin(driver.now)
    driver.act()
    assert driver.taken() == []


def test_a_stop_during_the_start_starts_nothing_more() -> None:
    driver = TreeDriver(group("a", group("b", "c", name="inner"), "d"))
    driver.ready("a")
    driver.stop()
    assert driver.taken() == ["+a", "+b", "-b"]
    driver.ready("b")
    assert driver.taken() == []
    driver.exit("b", 0)
    driver.exit("a", 0)
    assert driver.taken() == ["-a"]
    assert driver.outcome == Outcome("stopped", clean=True)
    assert not driver.tree.ready


def test_a_stop_drops_what_backs_off() -> None:
    driver = started("a", group("b", name="inner", intensity=0), backoff=SLOW)
    for _ in range(2):
        driver.exit("a")
        driver.exit("b")
        driver.start_all()
    assert driver.running == set()
    driver.stop()
    assert driver.outcome == Outcome("stopped", clean=True)


def test_a_stop_while_the_tree_fails_keeps_the_failure_as_the_reason() -> None:
    driver = started("a", child("b", shutdown_s=60.0), intensity=0)
    driver.exit("a")
    driver.stop(1.0)
    assert driver.processes["b"].asked == pytest.approx(1.0)
    driver.exit("b", 0)
    assert driver.outcome is not None
    assert not driver.outcome.clean
    assert driver.outcome.reason.startswith("more than 0 restarts")


def test_a_child_that_ends_before_its_turn_to_stop_is_not_asked() -> None:
    driver = started("a", "b", "c")
    driver.stop()
    driver.exit("a", 0)
    driver.exit("c", 0)
    driver.exit("b", 0)
    assert driver.taken() == ["-c", "-b"]
    assert driver.outcome == Outcome("stopped", clean=True)


def test_a_restart_that_is_due_while_the_tree_stops_is_not_made() -> None:
    driver = started("a", child("b", shutdown_s=30.0), backoff=SLOW)
    driver.exit("a")
    driver.start_all()
    driver.exit("a")
    driver.taken()
    driver.stop()
    driver.wait(20.0)
    assert driver.taken() == ["-b"]


# Killing


def test_a_process_that_survives_its_kill_is_abandoned_and_replaced() -> None:
    driver = started(child("a", heartbeat_timeout_s=1.0), "b")
    driver.wait(1.2, beating=False)
    assert driver.taken() == ["!a"]
    driver.wait(KILL_PATIENCE_S - 0.5)
    assert driver.taken() == []
    driver.wait(1.0)
    assert driver.taken() == ["~a", "+a"]


def test_a_stop_does_not_wait_for_a_process_that_survives_its_kill() -> None:
    driver = started("a", child("b", shutdown_s=0.0))
    driver.stop()
    driver.wait(KILL_PATIENCE_S + 0.1)
    assert driver.taken() == ["!b", "~b", "-a"]
    driver.exit("a", 0)
    assert driver.outcome == Outcome("stopped; not in order: b", clean=False)


def test_a_killed_child_is_not_asked_any_more() -> None:
    driver = started("a", child("b", heartbeat_timeout_s=1.0, shutdown_s=60.0), strategy=ALL)
    driver.wait(1.2, beating=False)
    driver.exit("a")
    driver.stop(30.0)
    assert driver.taken() == ["!b"]
    driver.wait(KILL_PATIENCE_S + 0.1)
    assert driver.taken() == ["~b"]
    assert driver.outcome is not None


def test_a_child_that_cannot_be_understood_is_killed_once_and_replaced() -> None:
    driver = started(child("a", restart=TRANSIENT))
    for _ in range(2):
        driver.tree.child_broken("a", "nonsense", driver.now)
        driver.act()
    assert driver.taken() == ["!a"]
    driver.exit("a", 0)
    assert driver.taken() == ["+a"]
    assert driver.tree.leaf("a").last_exit == "nonsense (exit code 0)"


# Heartbeats


def test_a_silent_child_is_killed_and_replaced() -> None:
    driver = started(child("a", heartbeat_timeout_s=2.0), child("b", heartbeat_timeout_s=2.0))
    for _ in range(8):
        driver.wait(0.25, beating=False)
        driver.beat("b")
    assert driver.taken() == ["!a"]
    driver.exit("a", signal=9)
    assert driver.taken() == ["+a"]
    assert driver.tree.leaf("a").last_exit == "missed heartbeats (killed by SIGKILL)"


def test_only_ready_children_with_a_limit_are_judged() -> None:
    driver = TreeDriver(group("a", child("b", heartbeat_timeout_s=1.0)))
    driver.ready("a")
    driver.wait(3.0, beating=False)
    driver.ready("b")
    driver.stop()
    driver.wait(3.0, beating=False)
    assert driver.taken() == ["+a", "+b", "-b"]


def test_a_beating_child_lives_for_ever() -> None:
    driver = started(child("a", heartbeat_timeout_s=1.0))
    driver.wait(300.0)
    assert driver.taken() == []


@pytest.mark.parametrize("asleep_s", [0.9, 1.5, 60.0])
def test_time_in_which_the_supervisor_did_not_run_counts_against_nobody(asleep_s: float) -> None:
    driver = started(child("a", heartbeat_timeout_s=1.0), child("b", start_timeout_s=3.0))
    driver.exit("b")
    driver.wait(0.4, beating=False)
    driver.taken()
    driver.sleep_through(asleep_s)
    assert driver.taken() == []
    # One that was hung all the while still has what was left of its time, and the pulse, but not more.
    driver.wait(1.0 + PULSE_S, beating=False)
    assert driver.taken() == ["!a"]
    driver.wait(3.0, beating=False)
    assert driver.taken() == ["!b"]


def test_a_word_that_was_waiting_when_the_supervisor_woke_counts() -> None:
    driver = started(child("a", heartbeat_timeout_s=1.0), child("b", heartbeat_timeout_s=1.0))
    driver.now += 30.0
    driver.beat("a")  # read before the tick
    driver.sleep_through(0.0)
    assert driver.taken() == []
    assert len(driver.reported("supervisor_late")) == 1
    driver.wait(2.0, beating=False)
    assert sorted(driver.taken()) == ["!a", "!b"]


# Siblings


def test_siblings_are_told_of_ends_and_returns() -> None:
    driver = started("a", "b", group("x", name="inner"))
    driver.exit("a")
    assert driver.told("b") == [("a", False)]
    driver.ready("a")
    assert driver.told("b") == [("a", True)]
    assert driver.told("a") == []
    assert driver.told("x") == []  # of another group


def test_one_that_becomes_ready_is_told_who_is_not_up() -> None:
    driver = TreeDriver(group("a", "b", "c", backoff=SLOW))
    driver.ready("a")
    assert driver.told("a") == [("b", False), ("c", False)]
    driver.ready("b")
    assert driver.told("a") == [("b", True)]
    assert driver.told("b") == [("c", False)]
    driver.ready("c")
    driver.exit("a")
    driver.exit("b")
    driver.exit("a")  # both are down, a backs off
    driver.told("c")
    driver.ready("b")
    assert driver.told("b") == [("a", False)]
    assert driver.told("c") == [("b", True)]


def test_a_killed_child_is_down_from_the_kill_on_and_only_once() -> None:
    driver = started(child("a", heartbeat_timeout_s=1.0), "b")
    driver.wait(1.2, beating=False)
    assert driver.told("b") == [("a", False)]
    driver.exit("a", signal=9)
    assert driver.told("b") == []


def test_those_that_stay_are_told_when_a_sibling_is_asked_to_stop() -> None:
    driver = started("a", "b", "c", strategy=REST)
    driver.exit("b")
    assert driver.told("a") == [("c", False), ("b", False)]
    assert driver.told("c") == []
    driver.stop_all()
    driver.start_all()
    assert driver.told("a") == [("b", True), ("c", True)]


def test_those_that_will_stop_too_are_told_nothing() -> None:
    driver = started("a", "b", "c", "d", strategy=ALL)
    driver.exit("b")
    driver.exit("d", 0)
    assert driver.told("a") == driver.told("c") == []
    driver.stop_all()
    driver.ready("a")
    assert driver.told("a") == [("b", False), ("c", False), ("d", False)]


def test_a_group_that_ends_tells_nobody() -> None:
    driver = started("a", "b", "c")
    driver.stop()
    driver.exit("c", 0)
    assert driver.told("a") == driver.told("b") == []
    driver.stop_all()
    assert driver.outcome == Outcome("stopped", clean=True)


def test_a_failed_start_is_no_news() -> None:
    driver = started("a", "b", backoff=SLOW)
    driver.exit("a")
    driver.told("b")
    driver.exit("a")
    assert driver.told("b") == []


# What people are shown


def test_states_as_they_are_shown() -> None:
    driver = TreeDriver(group("a", child("b", restart=TEMPORARY, heartbeat_timeout_s=1.0), backoff=SLOW))
    leaf = driver.tree.leaf

    def shown() -> tuple[str, str]:
        return leaf("a").shown_state, leaf("b").shown_state

    assert shown() == ("starting", "waiting")
    driver.ready("a")
    driver.ready("b")
    assert shown() == ("running", "running")
    driver.wait(1.2, beating=False)
    assert shown() == ("running", "killed")
    driver.exit("b", signal=9)
    driver.exit("a")
    driver.exit("a")
    assert shown() == ("backing-off", "finished")
    driver.wait(1.2)
    driver.start_all()
    driver.stop()
    assert shown() == ("stopping", "down")
    driver.exit("a", 0)
    assert shown() == ("down", "down")


def test_nothing_starts_after_a_group_whose_first_start_fails_slowly() -> None:
    inner = GroupSpec("inner", (child("a"), child("b")))
    driver = TreeDriver(GroupSpec("root", (inner, child("c"))))
    driver.ready("a")
    driver.exit("b", 1)  # inner has failed to start; a is asked to stop and takes its time
    driver.wait(1.0)  # the half-second pulse ticks meanwhile
    assert driver.taken() == ["+a", "+b", "-a"]


def test_a_tree_is_not_ready_while_a_failed_first_start_is_being_undone() -> None:
    driver = TreeDriver(GroupSpec("root", (GroupSpec("inner", (child("a"), child("b"))),)))
    driver.ready("a")
    driver.exit("b", 1)
    driver.wait(1.0)
    assert not driver.tree.ready
    driver.exit("a", 0)
    assert driver.outcome is not None and "failed to start" in driver.outcome.reason
