"""A real Prometheus that scrapes a real instance: it takes the metrics, the alerts and the dashboard's questions."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.monitoring import (
    OPS,
    dashboard_expressions,
    filled_in,
    metrics_in,
    rule_expressions,
    rules,
)
from tests.support.observed import Observed, observed_symphony
from tests.support.ports import lasting_port
from tests.support.programs import program
from tests.support.scrape import scrape_until

LIMIT_S = 40.0


class Prometheus:
    """One in the foreground, with everything in a directory of its own."""

    def __init__(self, directory: Path, target: str) -> None:
        path = program("prometheus")
        self._port = lasting_port()
        text = yaml.safe_load((OPS / "prometheus" / "prometheus.yml").read_text())
        text["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        [job] = text["scrape_configs"]
        job["scrape_timeout"] = "500ms"
        job["static_configs"] = [{"targets": [target]}]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(text))
        shutil.copy(OPS / "prometheus" / "symphony.rules.yml", directory)
        self._log = directory / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    path,
                    f"--config.file={directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory,
            )

    def get(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self._port}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            told = json.load(answer)
        assert told["status"] == "success"
        return told["data"]

    def value(self, expression: str) -> list[float]:
        return [float(each["value"][1]) for each in self.get("/api/v1/query", query=expression)["result"]]

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                if condition():
                    return
            except OSError:
                assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()[-4000:]
            time.sleep(0.1)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextmanager
def watched(directory: Path) -> Iterator[tuple[Observed, Prometheus]]:
    program("prometheus")
    port = lasting_port()
    with observed_symphony(f'admin = {{ host = "127.0.0.1", port = {port} }}') as observed:
        observed.use_everything()
        prometheus = Prometheus(directory, f"127.0.0.1:{port}")
        try:
            prometheus.wait(lambda: prometheus.value('up{job="symphony"}') == [1])
            prometheus.wait(lambda: prometheus.value("symphony_connections_accepted_total") == [4])
            yield observed, prometheus
        finally:
            prometheus.stop()


def test_it_takes_metrics_alerts_and_the_questions_of_the_dashboard(tmp_path: Path) -> None:
    with watched(tmp_path) as (observed, prometheus):
        has_scraped_everything(observed, prometheus)
        answers_the_dashboard(prometheus)
        judges_by_the_alerts(prometheus)


def has_scraped_everything(observed: Observed, prometheus: Prometheus) -> None:
    """All that alerts and dashboard ask for."""
    stored = set(prometheus.get("/api/v1/label/__name__/values"))
    asked = set().union(*map(metrics_in, [*rule_expressions(), *dashboard_expressions()]))
    told = scrape_until(
        observed.symphony, lambda now: now.of("symphony_connections_accepted_total") == 4
    ).names
    assert asked <= stored and asked <= told
    [target] = prometheus.get("/api/v1/targets")["activeTargets"]
    assert target["lastError"] == ""


def answers_the_dashboard(prometheus: Prometheus) -> None:
    prometheus.wait(lambda: bool(prometheus.value("rate(symphony_connections_accepted_total[1m])")))
    silent = {
        expression
        for expression in dashboard_expressions()
        if not prometheus.get("/api/v1/query", query=filled_in(expression))["result"]
    }
    # Of these there is nothing: no upstream is drained, and nothing was restarted.
    assert {metric for expression in silent for metric in metrics_in(expression)} <= {
        "symphony_upstream_draining",
        "symphony_actor_restarts_total",
    }


def judges_by_the_alerts(prometheus: Prometheus) -> None:
    [group] = prometheus.get("/api/v1/rules")["groups"]
    assert [rule["name"] for rule in group["rules"]] == [rule["alert"] for rule in rules()]
    prometheus.wait(lambda: all(rule["health"] == "ok" for rule in _rules(prometheus)))

    def pending() -> set[str]:
        return {rule["name"] for rule in _rules(prometheus) if rule["state"] in ("pending", "firing")}

    # The dead upstream is the only one of its route.
    prometheus.wait(lambda: {"SymphonyRouteWithoutUpstream", "SymphonyUpstreamDown"} <= pending())
    assert pending() <= {"SymphonyRouteWithoutUpstream", "SymphonyUpstreamDown", "SymphonyUpstreamErrors"}


def _rules(prometheus: Prometheus) -> list[dict[str, Any]]:
    [group] = prometheus.get("/api/v1/rules")["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found
