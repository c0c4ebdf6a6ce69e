"""What operators watch. If these break, a dashboard shows nothing, or a log line cannot be traced
to its row."""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.services import ROOT, Service
from tests.support.patience import limit_s, wait_until
from tests.support.replicas import item

DASHBOARD = ROOT / "infra" / "grafana" / "ace-catalog.json"
# What Prometheus calls the series of each kind of metric.
SERIES = {"Counter": "_total", "Gauge": "", "Histogram": "_bucket"}


class Reports:
    """Ray's reports of a run that is still open, as Prometheus reads them."""

    def __init__(self, folder: Path):
        command = [sys.executable, "-m", "tests.support.reporting_run", str(folder)]
        self.service = Service.start("run", command, os.environ, folder / "run.log")
        ready = folder / "ready.json"
        self.service.wait_until(ready.exists)
        details: dict[str, Any] = json.loads(ready.read_text())
        self.logs = Path(details["logs"])
        self._url = f"http://127.0.0.1:{details['port']}/metrics"

    def read(self, series: str) -> float:
        """Return the value of a series, summed over its labels."""
        with urllib.request.urlopen(self._url, timeout=limit_s()) as answer:
            lines = answer.read().decode().splitlines()
        name, _, labels = series.partition("{")
        wanted = [part for part in labels.rstrip("}").split(",") if part]
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith(f"{name}{{") and all(part in line for part in wanted)
        )


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reports]:
    reports = Reports(tmp_path_factory.mktemp("metrics"))
    yield reports
    reports.service.stop(limit_s())


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ('ray_ace_items_total{code=""}', 5),
        ('ray_ace_items_total{code="bad_image"}', 1),
        ('ray_ace_phase_seconds_total{phase="generate"}', 0.8),
        ("ray_ace_item_seconds_count", 5),
        ("ray_ace_replica_busy_seconds_total", 0.8),
        ("ray_ace_replica_deaths_total", 1),
        ("ray_ace_items_queued", 0),
        ("ray_ace_items_in_flight", 0),
        ("ray_ace_replicas_ready", 1),
    ],
)
def test_prometheus_reads_what_happened(reports: Reports, series: str, expected: float) -> None:
    """Reports come a little later than what they report."""
    wait_until(
        lambda: reports.read(series) == pytest.approx(expected),
        f"{series} to be {expected}",
        output=lambda: str(reports.read(series)),
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("series", "least"),
    [
        ("ray_ace_item_retries_total", 1),  # and its neighbours in flight
        ("ray_ace_replica_ready_seconds_total", 0.8),
        # Each order met an error; what the first replica had not told when it died is lost.
        ('ray_ace_store_errors_total{again="yes",error="StoreUnavailable"}', 5),
    ],
)
def test_what_depends_on_the_moment_is_counted_too(
    reports: Reports, series: str, least: float
) -> None:
    wait_until(
        lambda: reports.read(series) >= least - 1e-6,
        f"{series} to be {least} or more",
        output=lambda: str(reports.read(series)),
    )


@pytest.mark.thorough
def test_a_replicas_log_says_which_item_of_which_run_it_is_about(reports: Reports) -> None:
    text = "".join(path.read_text() for path in reports.logs.glob("worker-*.err"))
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    about = {each["row_id"]: each for each in lines if each["message"] == "an order is obeyed"}
    assert about.keys() >= {f"row-{number}" for number in range(6)}
    one = about["row-2"]
    assert (one["run_id"], one["shard"], one["level"]) == ("run-7", 3, "INFO")
    assert one["replica"].startswith("replica-")
    assert one["item_id"] == item(2, "sleep 0.2").item_id


def test_the_dashboard_shows_every_metric_and_none_that_is_not_reported() -> None:
    code = (ROOT / "ace_tasks" / "engine" / "prometheus.py").read_text()
    metrics = re.findall(r'(Counter|Gauge|Histogram)(?:\(\s*|, )"(\w+)"', code)
    series = {f"ray_{name}{SERIES[kind]}" for kind, name in metrics}
    board = json.loads(DASHBOARD.read_text())
    queries = " ".join(each["expr"] for panel in board["panels"] for each in panel["targets"])
    assert set(re.findall(r"ray_ace_\w+", queries)) == series
