"""A run over a Ray that reports twice a second, kept open to be looked at; in a process of its own,
since another Ray may be at work in that of the tests.

    python -m tests.support.reporting_run FOLDER

Five items are done, one fails, and one has its replica die once. Then `FOLDER/ready.json` names the
port of Ray's reports and the folder of its logs. SIGTERM ends it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

# Before Ray is imported.
os.environ |= {"RAY_metrics_report_interval_ms": "500"}

import ray

from ace_tasks.engine.dispatcher import Dispatcher
from ace_tasks.engine.session import ray_session
from ace_tasks.settings import PoolSettings, ReplicaSettings, WeightsSettings
from tests.support.replicas import SleepingReplica, item


def main() -> None:
    folder = Path(sys.argv[1])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    replica = ReplicaSettings(
        variant="sleeping", weights=WeightsSettings(folder=folder), output_uri="s3://tests/out"
    )
    orders = [f"exit-once {folder / 'once'}", *["sleep 0.2"] * 4, "bad"]
    items = [item(number, order) for number, order in enumerate(orders)]
    with (
        ray_session(cpus=2),
        Dispatcher(replica, PoolSettings(), "run-7", lambda *_: None, SleepingReplica) as pool,
    ):
        pool.edit(items, shard=3)
        session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
        details = {"port": ray.nodes()[0]["MetricsExportPort"], "logs": str(session / "logs")}
        (folder / "ready.new").write_text(json.dumps(details))
        (folder / "ready.new").rename(folder / "ready.json")
        stop.wait()


if __name__ == "__main__":
    main()
