"""Alerts and dashboard in ``ops``: that Prometheus takes them, and that they ask for what there is."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from symphony.cli.main import main
from symphony.observe.exposition import render
from symphony.observe.reasons import Reason
from tests.support.monitoring import (
    OPS,
    dashboard_expressions,
    metrics_in,
    reasons_in,
    rule_expressions,
    rules,
)
from tests.unit.test_telemetry import telemetry

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments],
        cwd=OPS / "prometheus",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "symphony.rules.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "symphony.rules.test.yml"),
    ],
)
def test_prometheus_takes_them(arguments: tuple[str, ...]) -> None:
    done = promtool(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@needs_promtool
def test_the_test_of_the_alerts_can_fail(tmp_path: Path) -> None:
    for name in ("symphony.rules.yml", "symphony.rules.test.yml"):
        text = (OPS / "prometheus" / name).read_text()
        (tmp_path / name).write_text(text.replace("symphony_actor_up == 0", "symphony_actor_up == 5"))
    done = promtool("test", "rules", str(tmp_path / "symphony.rules.test.yml"))
    assert done.returncode and "SymphonyActorDown" in done.stdout + done.stderr


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    tested = {
        test["name"]
        for test in yaml.safe_load((OPS / "prometheus" / "symphony.rules.test.yml").read_text())["tests"]
    }
    for rule in rules():
        assert rule["alert"] in tested
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "action"}
        assert all(text.endswith(".") for text in rule["annotations"].values()), rule["alert"]
    assert len({rule["alert"] for rule in rules()}) == len(rules()) > 15


def test_commands_in_alerts_are_commands() -> None:
    words = [part.split() for rule in rules() for part in rule["annotations"]["action"].split("`")[1::2]]
    commands = {part[1] for part in words if part[:1] == ["symphony"]}
    assert commands and commands <= set(main.list_commands(None))  # type: ignore[arg-type]


@pytest.mark.parametrize("expressions", [rule_expressions, dashboard_expressions])
def test_what_they_ask_for_is_told(expressions: Any) -> None:
    text = render(telemetry()).decode()
    there = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    asked = set().union(*(metrics_in(expression) for expression in expressions()))
    assert asked and asked <= there, asked - there
    for expression in expressions():
        assert reasons_in(expression) <= {*Reason}, expression


def test_the_dashboard_is_whole() -> None:
    board = json.loads((OPS / "grafana" / "symphony.json").read_text())
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance", "route"]
    assert variables["datasource"]["type"] == "datasource"
    titles = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert titles == ["Overview", "Listeners", "Routes and upstreams", "Protection", "Tree"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (column, line)
            for column in range(place["x"], place["x"] + place["w"])
            for line in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
            assert 'instance=~"$instance"' in target["expr"]
