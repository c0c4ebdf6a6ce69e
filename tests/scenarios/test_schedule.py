"""A schedule, as the server keeps it and a worker runs it. If this breaks, a
nightly run edits what it has already edited, or leaves out what came in since."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.client.schemas.sorting import FlowRunSort

from ace_tasks.provenance.keys import results_key
from ace_tasks.store import Store
from infra.services import Service
from tests.support.patience import wait_until
from tests.support.serving import serving

PACE = timedelta(seconds=20)


class Schedule:
    """Runs of a schedule, as they end."""

    def __init__(self, client: SyncPrefectClient, worker: Service, deployment_id: Any):
        self._client = client
        self._worker = worker
        self._mine = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment_id]}})
        self._seen: set[Any] = set()

    def next_run(self) -> FlowRun:
        """Wait for the first one that ended after those seen. It has to be completed."""
        run = wait_until(self._ended, "a run's end", output=self._worker.log_tail, every_s=1)
        assert run is not None
        assert run.state_name == "Completed", run.state
        self._seen.add(run.id)
        return run

    def _ended(self) -> FlowRun | None:
        order = FlowRunSort.EXPECTED_START_TIME_ASC
        for run in self._client.read_flow_runs(flow_run_filter=self._mine, sort=order):
            if run.id not in self._seen and run.state and run.state.is_final():
                return run
        return None


@pytest.mark.thorough
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
        text = store.get(f"{prefix}/out/{results_key(str(run.id), 'csv')}").decode()
        rows = csv.DictReader(io.StringIO(text))
        return {row["row_id"] for row in rows if row["status"] == "done"}

    put("a.png", 1)
    put("b.png", 2)
    log = tmp_path / "worker.log"
    with serving(prefect_server, log) as worker, get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("restyle-catalog/restyle-catalog")
        parameters = {
            "source": f"{prefix}/in",
            "output": f"{prefix}/out",
            "prompt": "on marble",
            "variant": "toy",
            "pixels": {"steps": 1},
        }
        (made,) = client.create_deployment_schedules(
            deployment.id, [(IntervalSchedule(interval=PACE), True)], parameters=parameters
        )
        schedule = Schedule(client, worker, deployment.id)
        assert edited(schedule.next_run()) == {"a.png", "b.png"}
        put("b.png", 3)  # changed
        put("c.png", 4)  # new
        # A run may begin before or between the two: what counts is what is edited in the end.
        later: list[str] = []
        while len(later) < 2:
            later += edited(schedule.next_run())
        assert sorted(later) == ["b.png", "c.png"]
        client.delete_deployment_schedule(deployment.id, made.id)
