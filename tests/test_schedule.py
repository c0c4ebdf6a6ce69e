"""A schedule at one-minute pace, as the server keeps it and a worker runs it. If this breaks, a
nightly run edits what it has already edited, or leaves out what came in since."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import FlowRunSort

from ace_tasks import provenance
from ace_tasks.store import Store
from infra.prefect_server import serve_deployments


def next_run(client: SyncPrefectClient, deployment_id: Any, seen: set[Any]) -> FlowRun:
    """The first run of the schedule that ended after those seen, completed."""
    deadline = time.monotonic() + 240
    mine = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment_id]}})
    while time.monotonic() < deadline:
        runs = client.read_flow_runs(flow_run_filter=mine, sort=FlowRunSort.EXPECTED_START_TIME_ASC)
        for run in runs:
            if run.id not in seen and run.state and run.state.is_final():
                assert run.state_name == "Completed", run.state
                seen.add(run.id)
                return run
        time.sleep(1)
    raise AssertionError([(run.name, run.state_name) for run in runs])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_run_edits_what_came_since_the_one_before(
    object_store: Any,
    prefect_server: Any,
    weights_dir: Any,
    store: Store,
    prefix: str,
    picture: Callable[..., bytes],
    tmp_path: Any,
) -> None:
    def put(name: str, seed: int) -> None:
        store.put(f"{prefix}/in/{name}", picture(seed=seed), "image/png")

    def edited(run: FlowRun) -> set[str]:
        text = store.get(f"{prefix}/out/{provenance.results_key(str(run.id), 'csv')}").decode()
        rows = csv.DictReader(io.StringIO(text))
        return {row["row_id"] for row in rows if row["status"] == "done"}

    put("a.png", 1)
    put("b.png", 2)
    worker = serve_deployments({"PREFECT_WORKER_QUERY_SECONDS": "1"}, tmp_path / "worker.log")
    try:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("restyle-catalog/restyle-catalog")
            parameters = {
                "source": f"{prefix}/in", "output": f"{prefix}/out", "prompt": "on marble",
                "variant": "toy", "steps": 1,
            }  # fmt: skip
            client.create_deployment_schedules(
                deployment.id, [(CronSchedule(cron="* * * * *"), True)], parameters=parameters
            )
            seen: set[Any] = set()
            assert edited(next_run(client, deployment.id, seen)) == {"a.png", "b.png"}
            put("b.png", 3)  # changed
            put("c.png", 4)  # new
            # A run may begin between the two, so what counts is what two runs did together.
            later = [edited(next_run(client, deployment.id, seen)) for _ in range(2)]
            assert sorted(name for made in later for name in made) == ["b.png", "c.png"]
    finally:
        worker.stop(30)
