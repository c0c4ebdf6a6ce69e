"""What operators watch. If these break, a dashboard shows nothing, or a log line cannot be traced
to its row."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from ace_tasks.engine import Dispatcher, ray_session
from ace_tasks.provenance import Failed
from ace_tasks.settings import PoolSettings, ReplicaSettings, WeightsSettings
from tests.replicas import SleepingReplica, item

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ROOT / "infra" / "grafana" / "ace-catalog.json"
_INTERVAL = "RAY_metrics_report_interval_ms"
# Of each kind of metric, what Prometheus calls its series.
SERIES = {"Counter": "_total", "Gauge": "", "Histogram": "_bucket"}


@pytest.fixture(scope="module")
def session(object_store: object) -> Iterator[Path]:
    """Ray, reporting twice a second; the folder of its logs."""
    os.environ[_INTERVAL] = "500"
    ray.shutdown()  # another file's
    with ray_session(cpus=2):
        yield Path(ray._private.worker.global_worker.node.get_session_dir_path()) / "logs"
    del os.environ[_INTERVAL]


@pytest.fixture(scope="module")
def run(session: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    """Five items done, one failed, one whose replica died once; the pool still open."""
    scratch = tmp_path_factory.mktemp("metrics")
    replica = ReplicaSettings(
        variant="sleeping", weights=WeightsSettings(folder=scratch), output_uri="s3://tests/out"
    )
    orders = [f"exit-once {scratch / 'once'}", *["sleep 0.2"] * 4, "bad"]
    items = [item(number, order) for number, order in enumerate(orders)]
    with Dispatcher(replica, PoolSettings(), "run-7", ignore, SleepingReplica) as pool:
        pool.edit(items, shard=3)
        yield pool


def ignore(item: object, failed: Failed) -> None:
    """Nothing is left to be written here."""


@pytest.fixture(scope="module")
def scrape(run: Dispatcher) -> Callable[[str], float]:
    """The value of a series, summed over its labels, as Prometheus would read it."""
    port = ray.nodes()[0]["MetricsExportPort"]

    def read(start: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        name, _, labels = start.partition("{")
        wanted = [part for part in labels.rstrip("}").split(",") if part]
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith(f"{name}{{") and all(part in line for part in wanted)
        )

    return read


def settles(read: Callable[[], float], expected: float) -> bool:
    """Reports come a little later than what they report."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if read() == pytest.approx(expected):
            return True
        time.sleep(0.5)
    return False


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
def test_prometheus_reads_what_happened(
    scrape: Callable[[str], float], series: str, expected: float
) -> None:
    assert settles(lambda: scrape(series), expected), scrape(series)


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
    scrape: Callable[[str], float], series: str, least: float
) -> None:
    assert settles(lambda: min(scrape(series), least), least), scrape(series)


def test_a_replicas_log_says_which_item_of_which_run_it_is_about(
    run: Dispatcher, session: Path
) -> None:
    text = "".join(path.read_text() for path in session.glob("worker-*.err"))
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    about = {each["row_id"]: each for each in lines if each["message"] == "an order is obeyed"}
    assert about.keys() >= {f"row-{number}" for number in range(6)}
    one = about["row-2"]
    assert (one["run_id"], one["shard"], one["level"]) == ("run-7", 3, "INFO")
    assert one["replica"].startswith("replica-")
    assert one["item_id"] == item(2, "sleep 0.2").item_id


def test_the_dashboard_shows_every_metric_and_none_that_is_not_told() -> None:
    code = (ROOT / "ace_tasks" / "engine" / "metrics.py").read_text()
    told = re.findall(r'(Counter|Gauge|Histogram)\(\s*"(\w+)"', code)
    series = {f"ray_{name}{SERIES[kind]}" for kind, name in told}
    board = json.loads(DASHBOARD.read_text())
    queries = " ".join(each["expr"] for panel in board["panels"] for each in panel["targets"])
    assert set(re.findall(r"ray_ace_\w+", queries)) == series
