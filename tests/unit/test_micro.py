"""The micro-benchmarks: every case does what it says, and the counting's arithmetic and parsing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.micro import count
from tools.micro.cases import CASES, Case, Unexpected, UnknownCase, expect, select

_PART = b"# callgrind format\nversion: 1\nevents: Ir\nsummary: 282303\n\nfn=(1)\n16 400\ntotals: 282303\n"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_can_be_called_again_and_again(case: Case) -> None:
    call = case.prepare()
    for _ in range(3):
        call()


def test_a_case_that_does_something_else_is_refused() -> None:
    with pytest.raises(Unexpected, match="another route"):
        expect(False, "another route")


def test_cases_are_chosen_by_name_and_prefix() -> None:
    assert [case.name for case in select(["proxy", "ja3"])] == ["proxy-v1", "proxy-v2", "ja3"]
    assert select([]) == list(CASES)
    assert len({case.name for case in CASES}) == len(CASES)
    with pytest.raises(UnknownCase, match="no case 'pic'"):
        select(["pic"])


def test_the_total_is_read_from_callgrinds_output() -> None:
    assert count.parse_totals(_PART) == 282303
    with pytest.raises(count.CannotCount, match="no total"):
        count.parse_totals(b"events: Ir\n")


def test_what_the_loop_and_the_mark_cost_falls_out() -> None:
    mark, call = 500, 70
    totals = [9_999_999, mark + 200 * call, mark + 1200 * call, 1_234, mark + 200 * 11, mark + 1200 * 11]
    assert count.per_call(totals, ["one", "two"]) == {"one": 70.0, "two": 11.0}


def test_missing_parts_and_impossible_counts_are_refused() -> None:
    with pytest.raises(count.CannotCount, match="2 parts for 1 cases"):
        count.per_call([1, 2], ["one"])
    with pytest.raises(count.CannotCount, match="one: 1200 calls took 5 instructions"):
        count.per_call([1, 5, 5], ["one"])


def test_a_count_above_the_tolerance_is_a_regression() -> None:
    known = {"same": 1000.0, "worse": 1000.0, "better": 1000.0}
    counts = {"same": 1029.0, "worse": 1031.0, "better": 900.0, "new": 5.0}
    results = {result.name: result for result in count.compare(counts, known)}
    assert [name for name, result in results.items() if result.regressed] == ["worse"]
    assert [name for name, result in results.items() if result.improved] == ["better"]
    assert results["new"].change is None


def test_storing_keeps_other_environments_and_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "baseline.json"
    monkeypatch.setattr(count, "environment", lambda: "elsewhere")
    count.store({"one": 1.0, "two": 2.0}, path)
    monkeypatch.setattr(count, "environment", lambda: "here")
    count.store({"one": 3.0}, path)
    count.store({"two": 4.0}, path)
    assert count.read_baseline(path).environments == {
        "elsewhere": {"one": 1.0, "two": 2.0},
        "here": {"one": 3.0, "two": 4.0},
    }
    assert count.read_baseline(tmp_path / "none.json").environments == {}


def test_the_stored_baseline_has_no_case_that_is_gone() -> None:
    for environment, counts in count.read_baseline().environments.items():
        assert set(counts) <= {case.name for case in CASES}, environment
