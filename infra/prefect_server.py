"""Run a Prefect server, and a worker for it, as child processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from infra.services import HOST, Service, answers, free_ports, run_command, script

WORK_POOL = "local"
_LEASES_ON_DISK = "prefect.server.concurrency.lease_storage.filesystem"
# By default the server writes each state of a task run in its own transaction. If shards end faster
# than that, it queues 10,000 states and then drops the next ones.
RECORDER = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}

# By default a server keeps every run, its logs and its artifacts for ever. What counts of a run is
# on S3. Runs that have not ended stay, whatever their age.
RETENTION = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(90 * 24 * 3600),  # seconds
}


class PrefectServer:
    """A Prefect server with its UI.

    Its database is SQLite in `data_dir`, or the one that the environment variable
    `PREFECT_SERVER_DATABASE_CONNECTION_URL` names.
    """

    def __init__(self, data_dir: Path, port: int | None = None):
        self.data_dir = data_dir
        self.port = port or free_ports(1)[0]
        self.ui_url = f"http://{HOST}:{self.port}"
        self.service: Service | None = None

    @property
    def env(self) -> dict[str, str]:
        """The environment variables that a flow, a worker or the `prefect` command needs."""
        return {
            "PREFECT_HOME": str(self.data_dir.resolve()),
            "PREFECT_API_URL": f"{self.ui_url}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # By default in memory: a restart would forget who holds a slot, and end their runs.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": _LEASES_ON_DISK,
            # A waiting run then starts soon after the one before it. The default is 30.
            "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
            "DO_NOT_TRACK": "1",
        }

    def launch(self) -> None:
        """Start the process. Call `wait` before using it."""
        command = [
            script("prefect"),
            "server",
            "start",
            "--host",
            HOST,
            "--port",
            str(self.port),
            "--log-level",
            "WARNING",
        ]
        self.service = Service.start(
            "Prefect server",
            command,
            RETENTION | os.environ | self.env | RECORDER,
            self.data_dir / "server.log",
        )

    def wait(self) -> None:
        assert self.service
        self.service.wait_until(lambda: answers(f"{self.ui_url}/api/health"))

    def start(self) -> PrefectServer:
        self.launch()
        self.wait()
        return self

    def stop(self) -> None:
        if self.service:
            self.service.stop()


def serve_deployments(env: Mapping[str, str], log: Path) -> Service:
    """Set up the server by `infra.deploy`, and start a worker on the pool."""
    run_command([sys.executable, "-m", "infra.deploy"], env)
    return start_worker(env, log)


def start_worker(env: Mapping[str, str], log: Path) -> Service:
    """Start a worker on the pool. If it is stopped, it hands its runs on (`infra.worker`)."""
    command = [sys.executable, "-m", "infra.worker", "--pool", WORK_POOL]
    return Service.start("Prefect worker", command, os.environ | env, log)
