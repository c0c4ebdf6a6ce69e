"""A worker on the server that tests share: what it still runs ends with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from infra.prefect_server import WORK_POOL, PrefectServer, serve_deployments
from infra.services import Service
from tests.support.patience import limit_s


@contextmanager
def serving(server: PrefectServer, log: Path) -> Iterator[Service]:
    """Serve all deployments by a worker that looks for runs each second."""
    worker = serve_deployments({"PREFECT_WORKER_QUERY_SECONDS": "1"}, log)
    try:
        yield worker
    finally:
        worker.stop(limit_s())
        _end_runs(server)


def _end_runs(server: PrefectServer) -> None:
    """Say of every run whose process ended with the worker that it has ended.

    Also of those that it has handed on, or the next file's worker would take them up.

    The queue `gpu` lets one run at a time. One that is thought to run keeps the next file's runs
    out for five minutes, until its heartbeat is missed.
    """
    unended = {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING", "SCHEDULED"]}}}
    here = {"name": {"any_": [WORK_POOL]}}
    state = {"state": {"type": "CRASHED", "message": "Its worker was stopped."}, "force": True}
    with httpx.Client(base_url=f"{server.ui_url}/api", timeout=limit_s()) as api:
        found = api.post("flow_runs/filter", json={"flow_runs": unended, "work_pools": here})
        for run in found.raise_for_status().json():
            api.post(f"flow_runs/{run['id']}/set_state", json=state).raise_for_status()
