"""The benchmark's arithmetic: a wrong sum here would be a wrong claim in the documentation."""

from __future__ import annotations

import random

import pytest

from tools.bench.figures import Spread, percentile, percentiles, ratio, slope, spread
from tools.bench.job import Level, Result, SideResult
from tools.bench.outcome import Figure, Target
from tools.bench.pair import RunError, check, cpu_per_operation_us, cpu_ratio, order
from tools.bench.peers import Haproxy, Nginx


def _side(name: str, cpu_ns: int, operations: int, **more: object) -> SideResult:
    level = Level(idle=0, operations=operations, cpu_ns=cpu_ns, seconds=1.0)
    return SideResult(name=name, levels=[level], **more)  # type: ignore[arg-type]


def test_spread_is_the_median_with_its_range() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert spread([4.0, 1.0, 2.0, 3.0]).median == 2.5
    assert spread([0.923, 0.9, 0.951]).text() == "0.92 (0.90-0.95)"
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(i) for i in range(1, 1001)]
    assert percentile(values, 50) == 500
    assert percentile(values, 99) == 990
    assert percentile(values, 99.9) == 999
    assert percentile(values, 100) == 1000
    assert percentile([7.0], 50) == 7
    for wrong in (0, 101):
        with pytest.raises(ValueError, match="percentage"):
            percentile(values, wrong)


def test_percentiles_sort_first() -> None:
    values = [float(i) for i in range(1, 101)]
    random.Random(1).shuffle(values)
    assert percentiles(values) == {"p50": 50, "p99": 99, "p99.9": 100, "max": 100}


def test_slope_ignores_the_fixed_part() -> None:
    assert slope([(100, 500.0), (1100, 22500.0)]) == pytest.approx(22.0)
    assert slope([(0, 1.0), (1, 2.0), (2, 3.0)]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="two different points"):
        slope([(5, 1.0), (5, 2.0)])


def test_ratio_refuses_a_side_that_was_not_measured() -> None:
    assert ratio(9, 10) == 0.9
    for part, whole in ((0, 10), (10, 0), (-1, 10)):
        with pytest.raises(ValueError, match="not measured"):
            ratio(part, whole)


def test_cpu_is_divided_by_operations() -> None:
    own, other = _side("symphony", 9_000_000, 300), _side("nginx", 10_000_000, 300)
    assert cpu_per_operation_us(own) == pytest.approx(30.0)
    assert cpu_ratio(own, other) == pytest.approx(0.9)


def test_sides_with_different_work_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same number"):
        cpu_ratio(_side("symphony", 9, 299), _side("nginx", 10, 300))


def test_every_other_pair_runs_the_other_way_round() -> None:
    peers = [Haproxy(), Nginx()]
    names = [[peer.name for peer in order(index, peers)] for index in range(3)]
    assert names == [["haproxy", "nginx"], ["nginx", "haproxy"], ["haproxy", "nginx"]]


def test_a_run_with_an_error_in_it_is_refused() -> None:
    broken = _side("haproxy", 1, 1, errors=["closed after 0 bytes", "closed after 0 bytes"])
    with pytest.raises(RunError, match=r"^haproxy: closed after 0 bytes$"):
        check(Result(sides=[_side("nginx", 1, 1), broken]))


def test_sides_with_different_ciphers_are_refused() -> None:
    sides = [_side("a", 1, 1, negotiated="TLSv1.3 X"), _side("b", 1, 1, negotiated="TLSv1.3 Y")]
    with pytest.raises(RunError, match="different TLS parameters"):
        check(Result(sides=sides))
    check(Result(sides=[sides[0], sides[0]]))
    check(Result(sides=sides), pinned=False)


@pytest.mark.parametrize(
    ("of", "limit", "met"), [("ratio", 0.95, True), ("ratio", 0.9, False), ("value", 20, False)]
)
def test_targets_look_at_ratio_or_value(of: str, limit: float, met: bool) -> None:
    figure = Figure(axis="x", title="x", peer="symphony", metric="m", target=Target(of, limit))
    assert figure.met is None
    figure.value, figure.ratio = spread([21.0]), spread([0.93])
    assert figure.met is met
