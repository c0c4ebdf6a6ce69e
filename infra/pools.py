"""The work pool of our runs: its job template, and how many run at once."""

from __future__ import annotations

import copy
from typing import Any, Literal

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound

Kind = Literal["process", "kubernetes"]
GPU_QUEUE = "gpu"  # for runs with replicas; a review does not wait for those
_COLLECTION: dict[Kind, str] = {"process": "prefect", "kubernetes": "prefect-kubernetes"}

ENV = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; a dead run is noticed by it
    # 2 + 4 + … + 128 s, so that no run ends because the API is away for minutes.
    "PREFECT_CLIENT_MAX_RETRIES": "7",
}
# For Kubernetes. A flow's process plans, dispatches and draws the contact sheet; Ray has the GPUs.
_DEFAULTS = {
    "image": "ace-catalog",
    "cpu_request": "2",
    "memory_request": "4Gi",
    "memory_limit": "8Gi",
    "finished_job_ttl": 24 * 3600,  # seconds; the pod and its log stay for a day
    "pod_watch_timeout_seconds": 900,  # time to start a new node and pull the image
}
_GRACE_S = 60  # a cancelled run finishes its current step, then ends its pool
_SECRET = "ace-catalog"  # holds credentials, RAY_ADDRESS and ACE_…, which are never parameters


async def template(client: PrefectClient, kind: Kind) -> dict[str, Any]:
    """Return Prefect's own job template, with the settings that our runs need."""
    known = await client.read_worker_metadata()
    made: dict[str, Any] = copy.deepcopy(
        known[_COLLECTION[kind]][kind]["default_base_job_configuration"]
    )
    properties = made["variables"]["properties"]
    properties["env"]["default"] = dict(ENV)
    if kind == "kubernetes":
        # A pod that is moved schedules its run again. A process does so itself (flows/ui/forms.py).
        properties["env"]["default"]["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] = "reschedule"
        for name, value in _DEFAULTS.items():
            properties[name]["default"] = value
        pod = made["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
        pod["terminationGracePeriodSeconds"] = _GRACE_S
        pod["containers"][0]["envFrom"] = [{"secretRef": {"name": _SECRET, "optional": True}}]
    return made


async def put(client: PrefectClient, name: str, kind: Kind, gpu_runs: int) -> None:
    """Create or update the pool and its queue. A pool keeps its type."""
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
