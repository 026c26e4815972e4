"""What the alerts and the dashboard in ``ops`` ask Prometheus for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from symphony.observe.reasons import Reason

OPS = Path(__file__).resolve().parents[2] / "ops"


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((OPS / "prometheus" / "symphony.rules.yml").read_text())[
        "groups"
    ][0]["rules"]
    return found


def rule_expressions() -> list[str]:
    return [rule["expr"] for rule in rules()]


def dashboard_expressions() -> list[str]:
    board = json.loads((OPS / "grafana" / "symphony.json").read_text())
    panels = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    return panels + [note["expr"] for note in board["annotations"]["list"]]


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\bsymphony_\w+", expression))


def reasons_in(expression: str) -> set[str]:
    """The reasons that an expression selects; a pattern that selects none stands for itself."""
    found: set[str] = set()
    for pattern in re.findall(r'reason=~?"([^"]*)"', expression):
        for part in pattern.split("|"):
            found |= {reason.value for reason in Reason if re.fullmatch(part, reason.value)} or {part}
    return found


def filled_in(expression: str) -> str:
    """An expression of the dashboard with its variables as Grafana puts them in for "All"."""
    for variable in ("$job", "$instance", "$route"):
        expression = expression.replace(f'"{variable}"', '".*"')
    return expression.replace("$__rate_interval", "1m")
