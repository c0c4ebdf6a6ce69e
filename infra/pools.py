"""The work pool that runs are started from: its template of a job, and how many run at once."""

from __future__ import annotations

import copy
from typing import Any, Literal

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound

Kind = Literal["process", "kubernetes"]
GPU_QUEUE = "gpu"  # of what wants replicas; a review need not wait for them
_COLLECTION: dict[Kind, str] = {"process": "prefect", "kubernetes": "prefect-kubernetes"}

ENV = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; by it a dead run is known
    # 2 + 4 + … + 128 s: an API that is away for minutes ends no run.
    "PREFECT_CLIENT_MAX_RETRIES": "7",
}
# Of Kubernetes. A flow's process plans, dispatches and draws the contact sheet; GPUs are Ray's.
_DEFAULTS = {
    "image": "ace-catalog",
    "cpu_request": "2",
    "memory_request": "4Gi",
    "memory_limit": "8Gi",
    "finished_job_ttl": 24 * 3600,  # seconds; a pod's own log stays a day
    "pod_watch_timeout_seconds": 900,  # a new node is started, and the image pulled
}
_GRACE_S = 60  # a cancelled run lets the step in progress end, then ends its pool
_SECRET = "ace-catalog"  # credentials, RAY_ADDRESS, ACE_…: never a parameter


async def template(client: PrefectClient, kind: Kind) -> dict[str, Any]:
    """Prefect's own template of a job, with what a run of ours needs."""
    known = await client.read_worker_metadata()
    made: dict[str, Any] = copy.deepcopy(
        known[_COLLECTION[kind]][kind]["default_base_job_configuration"]
    )
    properties = made["variables"]["properties"]
    properties["env"]["default"] = dict(ENV)
    if kind == "kubernetes":
        for name, value in _DEFAULTS.items():
            properties[name]["default"] = value
        pod = made["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
        pod["terminationGracePeriodSeconds"] = _GRACE_S
        pod["containers"][0]["envFrom"] = [{"secretRef": {"name": _SECRET, "optional": True}}]
    return made


async def put(client: PrefectClient, name: str, kind: Kind, gpu_runs: int) -> None:
    """Create the pool and its queue, or bring them up to date. A pool keeps its type."""
    pool = WorkPoolCreate(
        name=name,
        type=kind,
        description="Runs of ace-catalog",
        base_job_template=await template(client, kind),
    )
    await client.create_work_pool(pool, overwrite=True)
    try:
        queue = await client.read_work_queue_by_name(GPU_QUEUE, work_pool_name=name)
    except ObjectNotFound:
        queue = await client.create_work_queue(GPU_QUEUE, work_pool_name=name)
    await client.update_work_queue(queue.id, concurrency_limit=gpu_runs)
